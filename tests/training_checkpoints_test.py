"""Checkpoint files: what they hold comes back, and what cannot be used is told and passed over."""

import hashlib
import json
import random

import keras
import numpy as np
import pytest

from darts_tf import files
from darts_tf.errors import InputError
from darts_tf.training.checkpoints import Checkpoints, Position

SETTINGS = {"seed": 3, "learning_rate": 0.1, "order": "first"}


def make(folder, shape=(2, 3), settings=SETTINGS, keep=3):
    variables = [
        keras.Variable(np.zeros(shape, np.float32)),
        keras.Variable(np.int64(0), dtype="int64", trainable=False),
        keras.Variable(np.zeros((0, 2), np.float64), dtype="float64"),
    ]
    return Checkpoints(folder, variables, settings, keep)


def fill(checkpoints, value):
    first, second, _ = checkpoints.variables
    first.assign(np.full(first.shape, value) / 3)
    second.assign(value)


def values(checkpoints):
    return [v.value.numpy().tolist() for v in checkpoints.variables]


@pytest.fixture
def saved(tmp_path):
    """A folder with the states of three positions."""
    checkpoints = make(tmp_path / "checkpoints")
    for value, position in enumerate([(0, 7), (1, 0), (1, 2)]):
        fill(checkpoints, value)
        checkpoints.save(Position(*position), seconds=1.5 * value)
    return tmp_path / "checkpoints"


def newest(folder):
    return sorted(folder.glob("*.checkpoint"))[-1]


def test_the_newest_state_comes_back_exactly(saved):
    checkpoints = make(saved)
    state = checkpoints.restore()
    assert (state.position, state.seconds) == ((1, 2), 3.0)
    expected = make(saved)
    fill(expected, 2)
    assert values(checkpoints) == values(expected)
    assert checkpoints.newest == (1, 2)


def test_a_file_is_what_the_documentation_says(saved):
    head, manifest, content = newest(saved).read_bytes().split(b"\n", 2)
    rest = manifest + b"\n" + content
    assert head.split() == [
        b"darts_tf",
        b"checkpoint",
        b"1",
        hashlib.sha256(rest).hexdigest().encode(),
        str(len(rest)).encode(),
    ]
    assert json.loads(manifest) == {
        "epoch": 1,
        "step": 2,
        "seconds": 3.0,
        "settings": SETTINGS,
        "variables": [[[2, 3], "float32"], [[], "int64"], [[0, 2], "float64"]],
    }
    assert content == np.full((2, 3), 2 / 3, np.float32).tobytes() + np.int64(2).tobytes()


def test_a_new_run_has_none(tmp_path):
    assert make(tmp_path / "checkpoints").restore() is None
    assert not list(tmp_path.iterdir())


def test_the_last_ones_are_kept_in_the_order_of_the_run(tmp_path):
    checkpoints = make(tmp_path, keep=2)
    for position in [(9, 99), (10, 0), (10, 5), (10, 10)]:
        checkpoints.save(Position(*position))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "000010-00000005.checkpoint",
        "000010-00000010.checkpoint",
    ]


def truncate(content):
    return content[:-1]


def flip(content):
    at = len(content) - 5
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def sealed(content, change):
    """The file with a changed manifest, and a checksum that is right."""
    _, manifest, rest = content.split(b"\n", 2)
    rest = json.dumps(change(json.loads(manifest))).encode() + b"\n" + rest
    return (
        b"darts_tf checkpoint 1 %s %d\n"
        % (
            hashlib.sha256(rest).hexdigest().encode(),
            len(rest),
        )
        + rest
    )


DAMAGE = {
    "truncated": (truncate, "is damaged: 162 bytes of 163 are there"),
    "flipped": (flip, "is damaged: its checksum differs"),
    "empty": (lambda c: b"", "is damaged: its first line is not that of a checkpoint"),
    "another file": (lambda c: b"PK\x03\x04" + c, "is damaged: its first line is not that of"),
    "format": (
        lambda c: c.replace(b"checkpoint 1 ", b"checkpoint 2 "),
        "has format 2, and 1 is expected",
    ),
    "huge": (
        lambda c: b"darts_tf checkpoint 1 %s %d\n" % (b"0" * 64, 1 << 60),
        f"is damaged: 0 bytes of {1 << 60} are there",
    ),
    "flags": (
        lambda c: sealed(c, lambda m: {**m, "settings": {**SETTINGS, "seed": 4}}),
        "is of other flags: seed was 4, now 3",
    ),
    "shapes": (
        lambda c: sealed(c, lambda m: {**m, "variables": [[[9], "float32"]]}),
        "is of another network, with other shapes",
    ),
    "manifest": (
        lambda c: sealed(c, lambda m: [1, 2]),
        "is damaged: it does not say what it holds",
    ),
    "parts": (
        lambda c: sealed(c, lambda m: {**m, "parts": [[1.0, 10**400]]}),
        "is damaged: it does not say what it holds",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_one_before_is_used_and_the_user_told_which_and_why(kind, saved, capsys):
    damage, words = DAMAGE[kind]
    path = newest(saved)
    path.write_bytes(damage(path.read_bytes()))
    if kind == "truncated":
        there = len(path.read_bytes().split(b"\n", 1)[1])
        words = f"is damaged: {there} bytes of {there + 1} are there"
    checkpoints = make(saved)
    state = checkpoints.restore()
    assert state.position == (1, 0)
    expected = make(saved)
    fill(expected, 1)
    assert values(checkpoints) == values(expected)
    line, *more = capsys.readouterr().out.splitlines()
    assert line.startswith(f"checkpoint  {path} {words}") and not more
    assert line.endswith("; resuming from 000001-00000000.checkpoint")
    # Out of the way, so that it is not taken for the newest for ever.
    assert path.with_name(path.name + ".unusable").exists() and not path.exists()


def test_of_more_replicas_the_sums_are_used(saved):
    path = newest(saved)
    path.write_bytes(sealed(path.read_bytes(), lambda m: {**m, "parts": [[1.5, 0.5]]}))
    checkpoints = make(saved)
    state = checkpoints.restore()
    assert state.position == (1, 2) and [part.tolist() for part in state.parts] == [[1.5, 0.5]]
    expected = make(saved)
    fill(expected, 2)
    assert values(checkpoints) == values(expected)


def test_two_bad_ones_are_passed_over(saved, capsys):
    for path in sorted(saved.glob("*"))[1:]:
        path.write_bytes(flip(path.read_bytes()))
    assert make(saved).restore().position == (0, 7)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_if_none_is_left_nothing_is_started_over(saved):
    for path in saved.glob("*"):
        path.write_bytes(flip(path.read_bytes()))
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    checkpoints = make(saved)
    with pytest.raises(InputError) as refused:
        checkpoints.restore()
    message = str(refused.value)
    assert message.startswith(
        f"No checkpoint in {saved} can be used: 000001-00000002.checkpoint is"
    )
    assert message.count("its checksum differs") == 3
    assert "Nothing was started over. To begin anew name another folder with --workdir" in message
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert values(checkpoints)[0] == [[0.0] * 3] * 2


def test_any_flipped_bit_is_noticed(saved):
    """Of the whole file, its first line included."""
    content = newest(saved).read_bytes()
    source = random.Random(0)
    for _ in range(300):
        at, bit = source.randrange(len(content)), 1 << source.randrange(8)
        newest(saved).write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        state = make(saved).restore()
        bad = newest(saved).with_name("000001-00000002.checkpoint.unusable")
        assert state.position == (1, 0) and bad.exists()
        bad.rename(saved / "000001-00000002.checkpoint")


def test_a_process_that_was_killed_within_leaves_what_is_not_read(saved):
    partial = saved / (files.PARTIAL + "000001-00000003.checkpoint")
    partial.write_bytes(b"half")
    assert make(saved).restore().position == (1, 2)


def test_a_full_disk_leaves_the_checkpoints_that_are_there(saved, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    monkeypatch.setattr("os.fsync", fail)
    words = r"000002-00000000.checkpoint: No space left on device. It needs \d+ bytes; [\d,]+ are"
    with pytest.raises(InputError, match=words):
        make(saved).save(Position(2, 0))
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
