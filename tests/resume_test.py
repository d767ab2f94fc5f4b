"""Stopped and killed runs, as processes of their own: the same command ends where one run does.

What the moments mean is in tests/killed.py. The counted ones do not depend on how fast the machine
is; where the random ones fall does, and what they must lead to does not.
"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from darts_tf.training.callbacks import MetricsLog
from tests.programs import ROOT

IMAGES = ("--limit=64", "--batch_size=8", "--layers=1", "--init_channels=2")
TEXT = ("--limit=3000", "--nhid=4", "--batch_size=8", "--evaluation_batch_size=2", "--bptt=12")
# The published rates are too much for so few rows of so small a width.
CALM = ("--learning_rate=1", "--dropout=0.1", "--dropoutx=0.1", "--dropouti=0")
COMMANDS = {
    "search_cnn": ("--order=second_fd", "--nodes=1", "--epochs=3", *IMAGES),
    "train_cnn": ("--epochs=3", "--cutout_length=3", "--drop_path_prob=0.3", *IMAGES),
    "search_rnn": ("--order=first", "--nodes=1", "--epochs=3", *TEXT, *CALM),
    "train_rnn": ("--epochs=6", "--nonmono=0", *TEXT, "--batch_size=4", "--learning_rate=2"),
    "pipeline": (
        "--search_order=first",
        "--search_nodes=1",
        "--limit=64",
        *(f"--{stage}_{flag[2:]}" for stage in ("search", "train") for flag in IMAGES[1:]),
        *("--search_epochs=2", "--train_epochs=2", "--train_cutout_length=3"),
    ),
}
MOMENTS = {
    "search_cnn": ("terminated:2", "half:2", "record:1", "named:2", "alphas:1"),
    "train_cnn": ("terminated:3", "named:1", "half:3", "record:2", "whole:2"),
    "search_rnn": ("terminated:4", "whole:3", "alphas:1", "half:9", "record:2"),
    "train_rnn": ("terminated:5", "half:1", "record:1", "whole:30", "named:4"),
    "pipeline": ("terminated:2", "alphas:1", "half:3", "whole:4", "record:1"),
}
"""A termination and four kills for each program; one more comes at random."""

LINE = re.compile(r"^\w+ goes on after (?:epoch (\d+)/\d+)?(?:, )?(?:step (\d+))?$", re.MULTILINE)


def start_arguments(moment, program, folder, *flags):
    command = [sys.executable, "-m", "tests.killed", moment, program, *COMMANDS[program], *flags]
    return [*command, f"--workdir={folder}"]


def rows_of(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def start(moment, program, folder, *flags):
    return subprocess.Popen(
        start_arguments(moment, program, folder, *flags),
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process):
    """(exit code, what was said)."""
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


@pytest.fixture(scope="module", params=list(COMMANDS))
def runs(request, tmp_path_factory):
    """(program, folder of an uninterrupted run, of an interrupted one, [(moment, code, said)])."""
    program, root = request.param, tmp_path_factory.mktemp(request.param)
    moments = list(MOMENTS[program])
    moments.append(f"seconds:{random.Random(program).uniform(0, 2):.3f}")
    notes = []
    whole = start("never", program, root / "whole")  # beside the other
    try:
        # A checkpoint after every step here, and only one an epoch in the other.
        for moment in [*moments, "never"]:
            process = start(moment, program, root / "parts", "--checkpoint_minutes=0")
            notes.append((moment, *end(process)))
        code, said = end(whole)
        assert code == 0, said
    finally:
        whole.kill()
    return program, root / "whole", root / "parts", notes


@pytest.mark.slow
def test_every_moment_was_hit_and_the_last_run_ended(runs):
    program, _, _, notes = runs
    for moment, code, said in notes:
        kind = moment.split(":")[0]
        assert "Traceback" not in said, said
        if kind == "terminated":
            assert code == 75
            assert said.splitlines()[-1] == (
                "stopped by SIGTERM; what was done is saved. Run the same command again to go on."
            )
        elif kind == "never":
            assert code == 0, said
        elif kind == "seconds":  # on a fast machine, all may be done before
            assert code in (-signal.SIGKILL, 0), said
        else:
            assert code == -signal.SIGKILL, (moment, code, said)
        print(
            f"{program:11} {moment:14} exit {code:4}  {LINE.search(said) and LINE.search(said)[0]}"
        )


@pytest.mark.slow
def test_a_run_goes_on_at_the_step_after_its_last_checkpoint(runs):
    """Nothing is lost but what came after it, and the run never falls back."""
    program, _, _, notes = runs
    if program == "pipeline":
        notes = notes[:2]  # what is said of the second stage begins anew
    positions = [(0, 0)]
    for _, _, said in notes[1:]:
        # Nothing is said by a process that was killed before.
        if found := LINE.search(said):
            positions.append((int(found[1] or 0), int(found[2] or 0)))
    assert positions == sorted(positions)
    # The termination came while the Nth step was saved: of it, nothing was lost.
    assert positions[1] == (0, int(notes[0][0].split(":")[1]))


def digests(folder):
    """What a finished run left, by file; without times."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix in (".jsonl", ".json", ".npz", ".svg") and path.name != "times.jsonl":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for checkpoints in folder.rglob("checkpoints"):
        newest = max(checkpoints.glob("*.checkpoint"))
        manifest, values = newest.read_bytes().split(b"\n", 2)[1:]
        manifest = json.loads(manifest)
        assert manifest.pop("seconds") == 0
        found[str(newest.relative_to(folder))] = (manifest, hashlib.sha256(values).hexdigest())
    return found


@pytest.mark.slow
def test_interruptions_leave_no_trace(runs):
    """Alphas, weights, optimizers, genotype, metrics: bit for bit."""
    program, whole, parts, _ = runs
    expected, actual = digests(whole), digests(parts)
    assert actual == expected
    names = {path.rpartition("/")[2] for path in expected}
    assert {"genotype.json", "metrics.jsonl"} <= names
    assert ("alphas.npz" in names) == (not program.startswith("train"))
    assert ("metrics.json" in names) == (not program.startswith("search"))
    left = {p.name for p in parts.rglob("partial.*")} | {p.name for p in parts.rglob("*.unusable")}
    assert not left


@pytest.mark.slow
def test_the_trained_models_are_the_same(runs):
    import keras

    from darts_tf.networks import evaluation, language  # noqa: F401  (registers the classes)

    program, whole, parts, _ = runs
    if program.startswith("search"):
        pytest.skip("a search leaves no model")
    first, second = (
        keras.models.load_model(folder / "model.keras", compile=False).variables
        for folder in (whole, parts)
    )
    assert len(first) == len(second) > 5
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    if program == "train_rnn":  # and so the averages, too, survived
        assert json.loads((whole / "metrics.json").read_text(encoding="utf-8"))["averaged"]


def test_half_a_line_of_metrics_is_written_anew(tmp_path):
    """What a machine that goes down may leave behind."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0, "loss": 2.0}\n{"epoch": 1, "lo')
    MetricsLog(path, first_epoch=1).on_train_begin()
    assert path.read_text() == '{"epoch": 0, "loss": 2.0}\n'
    assert list(tmp_path.iterdir()) == [path]
