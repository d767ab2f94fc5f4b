"""The benchmark: its one object for every mode, runs in turn with another command, refusals."""

import json
import subprocess
import sys

import pytest

from darts_tf.bin import benchmark, workloads
from darts_tf.bin.workloads import Workload
from tests.programs import ROOT, run

IMAGES = ("--batch_size=2", "--init_channels=2", "--layers=3", "--image_size=16", "--steps=1")
WORDS = ("--width=4", "--batch_size=3", "--window=4", "--vocabulary=9", "--steps=1")
KEYS = {
    "framework",
    "mode",
    "order",
    "batch_size",
    "parameters",
    "devices",
    "start_s",
    "trace_s",
    "step_s",
    "graph_nodes",
    "median_s",
    "min_s",
    "peak_rss_mb",
    "versions",
    "processor",
    "threads",
}
# The smallest auxiliary head reads 2x2 px, and the input pipeline makes 25,000 images whatever the
# flags say: small ones here.
ARGUMENTS = {
    "search": (*IMAGES, "--order=second_exact"),
    "train": IMAGES,
    "inference": IMAGES,
    "data": ("--batch_size=2", "--image_size=8", "--steps=1"),
    "search_rnn": WORDS,
    "train_rnn": WORDS,
}


@pytest.mark.parametrize("mode", sorted(workloads.MODES))
def test_every_mode_prints_one_object(mode, capsys):
    assert run(benchmark, f"--mode={mode}", *ARGUMENTS[mode]) == 0
    found = json.loads(capsys.readouterr().out)
    per_second = "tokens_per_s" if mode.endswith("rnn") else "images_per_s"
    assert set(found) == KEYS | {per_second}
    assert found["mode"] == mode and len(found["step_s"]) == 1
    assert (found["parameters"] is None) == (mode == "data")
    assert found["start_s"] > found["trace_s"] >= 0 and found["peak_rss_mb"] > 100
    assert (found["order"] is None) == (not mode.startswith("search"))


def test_a_training_is_timed_on_two_devices_too():
    arguments = ["--mode=train", *IMAGES, "--logical_devices=2", "--nosync_batch_norm"]
    command = [sys.executable, "-m", "darts_tf.bin.benchmark", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(done.stdout)
    assert found["devices"] == 2 and len(found["step_s"]) == 1 and found["batch_size"] == 2
    assert found["processor"].keys() == {"model", "instruction_sets", "onednn"}
    assert done.stderr == ""  # none of TensorFlow's lines


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--mode=data", "--logical_devices=2"], "--mode=data runs on one device; on several run"),
        (["--strategy=multi_worker"], "benchmark times one process"),
    ],
)
def test_devices_that_it_cannot_time_are_refused(arguments, words):
    command = [sys.executable, "-m", "darts_tf.bin.benchmark", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


def test_the_first_step_is_not_among_the_timed_ones():
    calls = []

    class Result:
        def numpy(self):
            calls.append("waited")

    def step(data):
        calls.append(data)
        return Result()

    clock = iter([7.25])
    measured = workloads.measure(
        Workload(step, "data", None, ("images", 1)), 2, lambda: next(clock)
    )
    assert calls == ["data", "waited"] * 3
    assert measured["start_s"] == 7.25 and len(measured["step_s"]) == 2
    assert measured["graph_nodes"] is None


def test_sizes_are_the_published_ones_unless_given(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(benchmark, "run", lambda values: seen.append(benchmark.sizes_of(values)))
    for mode, arguments in (("search", ()), ("train", ("--layers=5",)), ("search_rnn", ())):
        assert run(benchmark, f"--mode={mode}", *arguments) == 0
    assert [(s.batch_size, s.init_channels, s.layers) for s in seen[:2]] == [
        (64, 16, 8),
        (96, 36, 5),
    ]
    assert (seen[2].batch_size, seen[2].width) == (256, 300)


def test_runs_alternate_with_the_other_command_and_ratios_are_its_figures_by_ours(
    monkeypatch, capsys
):
    objects = iter(
        [{"median_s": 2.0, "peak_rss_mb": 100}, {"median_s": 5.0, "peak_rss_mb": 50}] * 2
    )
    commands = []

    def fake(command):
        commands.append(command)
        return next(objects)

    monkeypatch.setattr(benchmark, "_object_of", fake)
    arguments = ("--repeat=2", "--against=other --flag 'two words'", "--order=second_fd")
    assert run(benchmark, *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratios"] == {
        "median_s": {"median": 2.5, "all": [2.5, 2.5]},
        "peak_rss_mb": {"median": 0.5, "all": [0.5, 0.5]},
    }
    other = ["other", "--flag", "two words"]
    assert commands[1::2] == [other, other]
    assert commands[0][-1] == "--order=second_fd"  # neither --repeat nor --against


def test_the_other_command_runs_as_a_process(monkeypatch, capsys):
    monkeypatch.setattr(benchmark.sys, "executable", "true")  # ours prints nothing
    assert run(benchmark, "--against=true") == 1
    assert "must print one JSON object" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, words",
    [
        ("no-such-program", "cannot be run: No such file or directory"),
        ("false", "failed with exit code 1: it printed no error"),
        ("echo 3", "must print one JSON object with keys such as median_s. Received: '3'"),
    ],
)
def test_a_command_that_is_no_benchmark_is_refused(command, words):
    with pytest.raises(benchmark.InputError, match=words):
        benchmark._object_of(command.split())
