"""Several workers on this machine: one result, one writer, and an end together."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from darts_tf.bin import launch
from darts_tf.errors import InputError
from tests.programs import ROOT, alphas, digests

SEARCH = (
    *("search_cnn", "--order=first", "--nodes=1", "--epochs=4", "--layers=1"),
    *("--init_channels=2", "--limit=68", "--batch_size=32", "--threads=1"),
)

TINY_TEXT = ("--limit=900", "--nhid=4", "--batch_size=4", "--evaluation_batch_size=3")
OTHERS = (
    ("train_cnn", "--epochs=2", "--layers=1", "--init_channels=2", "--limit=66", "--noauxiliary"),
    ("train_rnn", "--epochs=2", "--learning_rate=2", *TINY_TEXT),
    ("search_rnn", "--epochs=2", "--learning_rate=2", "--order=first", "--nodes=2", *TINY_TEXT),
)


def started(*arguments):
    """A process of the launcher."""
    return subprocess.Popen(
        [sys.executable, "-m", "darts_tf.bin.launch", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The work folder of an uninterrupted search by two workers."""
    folder = tmp_path_factory.mktemp("launch") / "whole"
    said, complained = (process := started("--", *SEARCH, f"--workdir={folder}")).communicate()
    assert process.returncode == 0, complained[-3000:]
    assert said.count("search epoch 4/4") == 1  # only the first one's output is shown
    return folder


@pytest.mark.slow
def test_two_workers_find_what_one_process_does(whole, tmp_path):
    program = subprocess.run(
        [sys.executable, "-m", f"darts_tf.bin.{SEARCH[0]}", *SEARCH[1:], f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    for name, value in alphas(tmp_path).items():  # in float32
        np.testing.assert_allclose(alphas(whole)[name], value, atol=1e-4, err_msg=name)
    written = {path.name for path in whole.iterdir()}
    assert written == {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_all_together_go_on(whole, tmp_path):
    command = ("--", *SEARCH, "--checkpoint_minutes=0", f"--workdir={tmp_path}")
    for victim, after in ((0, "search epoch 1/4"), (1, "search epoch 2/4")):
        process = started(*command)
        workers = [int(process.stderr.readline().split()[-1]) for _ in range(2)]
        for line in process.stdout:
            if line.startswith(after):
                os.kill(workers[victim], signal.SIGKILL)
                break
        _, complained = process.communicate(timeout=launch.PATIENCE + 60)
        assert process.returncode == 128 + signal.SIGKILL
        assert f"worker {victim} ended with exit code 137 (signal 9); the others" in complained
        for worker in workers:
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)
    again = started(*command)
    said, complained = again.communicate()
    assert again.returncode == 0, complained[-3000:]
    assert re.search(r"search resumes after epoch [1-4]/4", said)
    # Alphas, weights, optimizers, genotype, metrics: bit for bit those of the two undisturbed ones.
    expected = digests(whole)
    assert digests(tmp_path) == expected
    assert {"alphas.npz", "metrics.jsonl", "genotype.json"} < set(expected)
    assert any(name.endswith(".checkpoint") for name in expected)


@pytest.mark.slow
def test_a_signal_stops_all_workers_after_the_same_step(tmp_path):
    process = started("--", *SEARCH, f"--workdir={tmp_path}")
    for line in process.stdout:
        if line.startswith("search epoch 1/4"):
            process.send_signal(signal.SIGTERM)
            break
    said, complained = process.communicate(timeout=120)
    assert process.returncode == 75, complained[-3000:]
    assert "run the same command" in (line + said).lower() and "the others" not in complained


def test_what_cannot_be_launched():
    with pytest.raises(InputError, match="Name a program behind --: pipeline, search_cnn"):
        launch.main(None, [])
    with pytest.raises(InputError, match="Unknown program 'plot'. Known: pipeline, search_cnn"):
        launch.main(None, ["plot"])


def test_the_exit_code_is_that_of_the_worker_that_failed(capfd):
    # The second one fails, and the first would go on for long.
    program = (
        "import json, os, time\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "raise SystemExit(3) if index else time.sleep(60)\n"
    )
    patience, launch.PATIENCE = launch.PATIENCE, 0.1
    try:
        assert launch.run_workers([sys.executable, "-c", program], 2) == 3
    finally:
        launch.PATIENCE = patience
    assert (
        "launch: worker 1 ended with exit code 3; the others are ended." in capfd.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", OTHERS, ids=[command[0] for command in OTHERS])
def test_two_devices_of_one_machine_find_what_one_does(command, tmp_path):
    rows = []
    for number in (0, 2):
        folder = tmp_path / str(number)
        program = subprocess.run(
            [sys.executable, "-m", f"darts_tf.bin.{command[0]}", *command[1:], "--threads=1"]
            + [f"--workdir={folder}", f"--logical_devices={number}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert program.returncode == 0, program.stderr[-3000:]
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows.append([json.loads(line) for line in lines])
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
