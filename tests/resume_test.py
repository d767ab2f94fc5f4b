"""Stopped and killed runs, as processes of their own: the same command ends where one run does.

What the moments mean is in tests/killed.py. The counted ones do not depend on how fast the machine
is; where the random ones fall does, and what they must lead to does not.
"""

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
from tests.programs import ROOT, digests

IMAGES = ("--limit=64", "--batch_size=8", "--layers=1", "--init_channels=2")
TEXT = ("--limit=3000", "--nhid=4", "--batch_size=8", "--evaluation_batch_size=2", "--bptt=12")
# The published rates are too much for so few rows of so small a width.
CALM = ("--learning_rate=1", "--dropout=0.1", "--dropoutx=0.1", "--dropouti=0")
COMMANDS = {
    "search_cnn": ("--order=second_fd", "--nodes=1", "--epochs=3", *IMAGES),
    # On two devices; the pipeline trains such a network on one.
    "train_cnn": (
        *("--epochs=3", "--cutout_length=3", "--drop_path_prob=0.3", "--logical_devices=2"),
        *IMAGES,
    ),
    "search_rnn": ("--order=first", "--nodes=1", "--epochs=3", *TEXT, *CALM),
    # With this rate the validation loss rises in the third epoch, after which averaging begins.
    "train_rnn": ("--epochs=5", "--nonmono=0", *TEXT, "--batch_size=4", "--learning_rate=20"),
    "pipeline": (
        "--search_order=first",
        "--search_nodes=1",
        "--limit=64",
        *(f"--{stage}_{flag[2:]}" for stage in ("search", "train") for flag in IMAGES[1:]),
        *("--search_epochs=2", "--train_epochs=2", "--train_cutout_length=3"),
    ),
}
MOMENTS = {
    "search_cnn": ("interrupted:2", "half:2", "record:1", "named:2", "alphas:1", "seconds"),
    "train_cnn": ("terminated:3", "named:1", "twice:3", "record:2", "whole:2", "seconds"),
    "search_rnn": ("interrupted:4", "whole:3", "alphas:1", "half:9", "record:2", "seconds"),
    # Within the record that follows the begin of averaging; then when some steps are averaged.
    "train_rnn": ("terminated:5", "half:1", "record:6", "whole:30", "named:4", "seconds"),
    # From whole:8 on in the training, and at last when the results are copied out of the stages.
    "pipeline": (
        *("terminated:2", "half:9", "alphas:1", "whole:8", "record:1", "seconds", "alphas:1"),
    ),
}
"""One end by a signal, and at least four sudden ones, for each program, the last but for `pipeline`
at a random moment: 25 kills in all."""

CODES = {"terminated": 75, "interrupted": 75, "twice": 130, "never": 0}
"""Exit codes by what happens; of all others that of a process that was killed."""

NOT_SAVED = {"terminated": 0, "interrupted": 0, "named": 0, "half": 1, "twice": 1, "whole": 1}
"""Of N checkpoints, one after each step, those that are not there afterwards."""

LINE = re.compile(r"^(\w+) resumes after (?:epoch (\d+)/\d+)?(?:, )?(?:step (\d+))?$", re.MULTILINE)


def start_arguments(moment, program, folder, *flags):
    command = [sys.executable, "-m", "tests.killed", moment, program, *COMMANDS[program], *flags]
    return [*command, f"--workdir={folder}"]


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    seconds = f"seconds:{random.Random(program).uniform(0, 2):.3f}"
    moments = [seconds if moment == "seconds" else moment for moment in MOMENTS[program]]
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
        allowed = {CODES.get(kind, -signal.SIGKILL)}
        if kind == "seconds":  # on a fast machine, all may be done before
            allowed.add(0)
        assert code in allowed, (moment, code, said)
        if code == 75:
            name = {"terminated": "SIGTERM", "interrupted": "SIGINT"}[kind]
            assert said.splitlines()[-1] == (
                f"stopped by {name}; what was done is saved. Run the same command again to resume."
            )
        assert ("unloads" in said.splitlines()) == (code == 0)
        if code == 130:
            assert said.splitlines()[-1].startswith("interrupted twice: ended at once;")
        line = LINE.search(said)
        print(f"{program:11} {moment:14} exit {code:4}  {line[0] if line else ''}")


@pytest.mark.slow
def test_a_run_goes_on_at_the_step_after_its_last_checkpoint(runs):
    """Nothing is lost but what came after it, and the run never falls back."""
    program, _, _, notes = runs
    begins = []
    for _, _, said in notes:
        # Nothing is said by a process that was killed before, or that has only results to write.
        found = LINE.search(said)
        begins.append(found and (found[1], int(found[2] or 0), int(found[3] or 0)))
    begins[0] = (program.split("_")[0].replace("pipeline", "search"), 0, 0)
    known = [begin for begin in begins if begin]
    assert known == sorted(known)  # of a pipeline, "search" is before "train"
    compared = 0
    for (moment, _, _), begin, end in zip(notes, begins, begins[1:], strict=False):
        kind, _, number = moment.partition(":")
        if kind in NOT_SAVED and begin and end and begin[:2] == end[:2]:
            assert end[2] - begin[2] == int(number) - NOT_SAVED[kind], moment
            compared += 1
    assert compared
    if program == "pipeline":
        first = [moment for moment, _, _ in notes].index("whole:8") + 1
        assert {begin[0] for begin in begins[first:] if begin} == {"train"}
        assert {begin[0] for begin in begins[:first] if begin} == {"search"}


@pytest.mark.slow
def test_averaging_goes_on_after_a_kill(runs):
    program, _, _, notes = runs
    if program != "train_rnn":
        pytest.skip("nothing is averaged")
    begun = [moment for moment, _, said in notes if "averaging   starts" in said]
    # The first of them was killed before it had saved that; the second was killed while it
    # averaged, and those after it went on with that.
    assert begun == ["record:6", "whole:30"]


@pytest.mark.slow
def test_interruptions_leave_no_trace(runs):
    """Alphas, weights, optimizers, genotype, metrics: bit for bit."""
    program, whole, parts, _ = runs
    expected, actual = digests(whole), digests(parts)
    assert actual == expected
    for path in parts.rglob("times.jsonl"):  # other seconds, of the same epochs
        epochs = [row["epoch"] for row in rows_of(path)]
        assert epochs == list(range(len(rows_of(path.with_name("metrics.jsonl")))))
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
    MetricsLog(path).begin(1)
    assert path.read_text() == '{"epoch": 0, "loss": 2.0}\n'
    assert list(tmp_path.iterdir()) == [path]
