"""Stopped and killed runs, as processes of their own: the same command ends where one run does."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from darts_tf.genotype import load, load_provenance
from darts_tf.training.callbacks import MetricsLog
from tests.programs import ROOT, alphas

# One thread: nothing then depends on how many processors there are, or on who is at them.
TINY = ("--layers=1", "--init_channels=2", "--limit=64", "--batch_size=32", "--threads=1")
SEARCH = ("search_cnn", "--order=second_fd", "--nodes=1", "--epochs=6", *TINY)
TRAIN = ("train_cnn", "--epochs=5", "--cutout_length=3", "--drop_path_prob=0.3", *TINY)
TEXT = ("--nhid=4", "--batch_size=4", "--evaluation_batch_size=2", "--bptt=12", "--threads=1")
SEARCH_TEXT = (
    *("search_rnn", "--order=first", "--nodes=1", "--epochs=6", "--limit=3000", *TEXT),
    # The published rates are too much for so few rows of so small a width.
    *("--learning_rate=1", "--dropout=0.1", "--dropoutx=0.1", "--dropouti=0"),
)
TRAIN_TEXT = ("train_rnn", "--epochs=6", "--limit=3000", "--nonmono=0", "--learning_rate=2", *TEXT)
LINE = re.compile(r"\w+ epoch (\d+)/\d+  [\d.]+ s  ")


class Process:
    """A program that runs in a folder."""

    def __init__(self, command, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"darts_tf.bin.{command[0]}", *command[1:]]
            + [f"--workdir={folder}"],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def send(self, number):
        """Sends a signal when the first line of a finished epoch comes; returns that epoch."""
        for line in self.process.stdout:
            if found := LINE.match(line):
                self.process.send_signal(number)
                return int(found[1])
        raise AssertionError(f"ended with {self.process.wait()} before an epoch was done")

    def end(self):
        """Exit code and remaining output."""
        said, _ = self.process.communicate(timeout=300)
        return self.process.returncode, said


def interrupted(command, root, kill):
    """(folder of an uninterrupted run, folder of an interrupted and finished one, notes).

    The interrupted one is stopped and, if asked for, killed after its second start. The other runs
    beside it.
    """
    whole, parts = Process(command, root / "whole"), root / "parts"
    notes = {}
    try:
        stopped = Process(command, parts)
        notes["stopped after"] = stopped.send(signal.SIGTERM)
        notes["stopped"] = stopped.end()
        if kill:
            killed = Process(command, parts)
            notes["killed after"] = killed.send(signal.SIGKILL)
            notes["killed"] = killed.end()
        notes["finished"] = Process(command, parts).end()
        notes["whole"] = whole.end()
    finally:
        whole.process.kill()
    return root / "whole", parts, notes


def test_half_a_line_of_metrics_is_written_anew(tmp_path):
    """What a machine that goes down may leave behind."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0, "loss": 2.0}\n{"epoch": 1, "lo')
    MetricsLog(path, first_epoch=1).on_train_begin()
    assert path.read_text() == '{"epoch": 0, "loss": 2.0}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return interrupted(SEARCH, tmp_path_factory.mktemp("search"), kill=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return interrupted(TRAIN, tmp_path_factory.mktemp("train"), kill=False)


@pytest.fixture(scope="module")
def searched_text(tmp_path_factory):
    return interrupted(SEARCH_TEXT, tmp_path_factory.mktemp("search_text"), kill=True)


@pytest.fixture(scope="module")
def trained_text(tmp_path_factory):
    return interrupted(TRAIN_TEXT, tmp_path_factory.mktemp("train_text"), kill=True)


@pytest.fixture(params=["searched", "trained", "searched_text", "trained_text"])
def either(request):
    return request.getfixturevalue(request.param)


def rows(folder):
    found = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        found.append(json.loads(line))
        assert found[-1].pop("seconds") >= 0
    return found


@pytest.mark.slow
def test_a_stopped_run_exits_with_75_and_says_how_to_go_on(either):
    _, _, notes = either
    code, said = notes["stopped"]
    assert code == 75
    assert (
        "stopped by SIGTERM; the state after the last step is saved. Run the same command "
        "again to go on.\n"
    ) in said
    assert "Traceback" not in said
    assert notes["stopped after"] == 1


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was(either):
    _, _, notes = either
    last = notes["stopped after"]
    if "killed" in notes:
        assert notes["killed"][0] == -signal.SIGKILL
        # The killed run was a second start: its first epoch is not the first of all.
        assert notes["killed after"] > last
        last = notes["killed after"]
    code, said = notes["finished"]
    assert code == 0
    after = int(
        re.search(r"^\w+ goes on after epoch (\d+)/\d+(?:, step \d+)?$", said, re.MULTILINE)[1]
    )
    # A line is printed just before its epoch is saved; a signal that only stops comes later.
    assert after >= (last - 1 if "killed" in notes else last)
    done = [int(found[1]) for line in said.splitlines() if (found := LINE.match(line))]
    assert done[0] == after + 1
    assert done == list(range(done[0], done[-1] + 1))


@pytest.mark.slow
def test_interruptions_leave_no_trace_in_the_metrics(either):
    whole, parts, notes = either
    assert notes["whole"][0] == 0
    assert "goes on after" not in notes["whole"][1]
    assert rows(parts) == rows(whole)
    assert [row["epoch"] for row in rows(parts)] == list(range(len(rows(parts))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "kind"), [("searched", "reduce"), ("searched_text", "recurrent")]
)
def test_an_interrupted_search_finds_the_same_bit_for_bit(search, kind, request):
    whole, parts, _ = request.getfixturevalue(search)
    expected, actual = alphas(whole), alphas(parts)
    assert expected["epoch"].tolist() == list(range(6))
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])
    assert np.abs(np.diff(expected[kind], axis=0)).max(axis=(1, 2)).min() > 0
    one, other = parts / "genotype.json", whole / "genotype.json"
    assert load(one) == load(other)
    assert load_provenance(one) == load_provenance(other)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["trained", "trained_text"])
def test_an_interrupted_training_has_the_same_weights_bit_for_bit(training, request):
    import keras

    from darts_tf.networks import evaluation, language  # noqa: F401  (registers the classes)

    whole, parts, _ = request.getfixturevalue(training)
    first, second = (
        keras.models.load_model(folder / "model.keras", compile=False).variables
        for folder in (whole, parts)
    )
    assert len(first) == len(second) > 5
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    figures = []
    for folder in (whole, parts):
        figures.append(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
        assert figures[-1].pop("training_seconds") > 0
    assert figures[0] == figures[1]
    if training == "trained_text":
        assert figures[0]["averaged"]  # and so the averages, too, survived
