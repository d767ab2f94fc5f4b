"""Checkpoints, hundreds of them damaged: used as they were saved, or not at all."""

import hashlib
import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_tf.errors import InputError
from darts_tf.training.checkpoints import Checkpoints, Position
from tests.mutations import mutated, mutated_json, repeatable

SETTINGS = {"seed": 3, "order": "first"}


def variables():
    return [
        keras.Variable(np.zeros((2, 3)), dtype="float32", name="weights"),
        keras.Variable(np.zeros(4), dtype="int64", name="seed"),
        keras.Variable(0.0, dtype="float32", name="rate"),
    ]


def fill(state, offset):
    for number, variable in enumerate(state):
        size = np.arange(np.prod(variable.shape, dtype=int)).reshape(variable.shape)
        variable.assign(size + offset + 10 * number)


def values(state):
    return [keras.ops.convert_to_numpy(v).tolist() for v in state]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints: their content, the older first, and the values that they hold."""
    folder, state = tmp_path_factory.mktemp("saved"), variables()
    checkpoints = Checkpoints(folder, state, SETTINGS)
    contents, held = [], []
    for position in (Position(1, 0), Position(1, 2)):
        fill(state, 100 * position.step)
        checkpoints.save(position, 1.5)
        held.append(values(state))
    contents = [path.read_bytes() for path in sorted(folder.glob("*.checkpoint"))]
    assert len(contents) == 2
    return contents, held


def signed(manifest, arrays):
    """A checkpoint file whose checksum is right, whatever it says."""
    content = manifest + b"\n" + arrays
    digest = hashlib.sha256(content).hexdigest().encode()
    return b"darts_tf checkpoint 1 %s %d\n" % (digest, len(content)) + content


def check(saved, newest, tmp_path, capsys):
    """Restores with a newest checkpoint in place of the good one."""
    contents, held = saved
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "000001-00000000.checkpoint").write_bytes(contents[0])
    (tmp_path / "000001-00000002.checkpoint").write_bytes(newest)
    state = variables()
    found = Checkpoints(tmp_path, state, SETTINGS).restore()
    said = capsys.readouterr().out
    if found.position == (1, 2) and values(state) == held[1] and not said:
        return True
    assert found.position == (1, 0) and values(state) == held[0]
    assert said.startswith(f"checkpoint  {tmp_path / '000001-00000002.checkpoint'} ")
    assert said.endswith("resuming from 000001-00000000.checkpoint\n") and said.count("\n") == 1
    assert len(said) < 800
    return False


@repeatable(500)
@given(data=st.data())
def test_a_damaged_checkpoint_gives_way_to_the_one_before(data, saved, tmp_path, capsys):
    good = saved[0][1]
    content = data.draw(mutated((good,)))
    assert check(saved, content, tmp_path, capsys) == (content == good)


@repeatable(700)
@given(data=st.data())
def test_what_a_checkpoint_says_is_not_believed(data, saved, tmp_path, capsys):
    _, manifest, arrays = saved[0][1].split(b"\n", 2)
    words = ("float64", [[2, 3], "float32"], 10**12, [10**12], "first")
    changed = data.draw(mutated_json((manifest,), words) | mutated((manifest,)))
    used = check(saved, signed(changed, arrays), tmp_path, capsys)
    if used:
        said = json.loads(changed)
        assert (said["epoch"], said["step"], said["settings"]) == (1, 2, SETTINGS)


def test_if_none_can_be_used_nothing_is_started_over(saved, tmp_path):
    (tmp_path / "000001-00000002.checkpoint").write_bytes(saved[0][1][:-1])
    with pytest.raises(InputError, match="No checkpoint in .* can be used: 000001-00000002.check"):
        Checkpoints(tmp_path, variables(), SETTINGS).restore()
