"""Two and three replicas compute what one does on the same global batches, on logical CPUs."""

import json
import subprocess
import sys

import numpy as np
import pytest

from darts_tf.bin import launch
from tests import replicas_program

EQUAL = [case for case in replicas_program.CASES if case != "divergence"]
WITH_3 = [
    "search_cnn/first",
    "train_cnn",
    "search_rnn/first",
    "train_rnn",
    "evaluate",
    "divergence",
]
"""The cases for three replicas, whose graphs take the longest to build."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `replicas_program` gives for a number of replicas; each is run once."""
    folder, done = tmp_path_factory.mktemp("replicas"), {}

    def of(replicas):
        path = folder / f"{replicas}.npz"
        if replicas not in done:
            cases = WITH_3 if replicas == 3 else []
            done[replicas] = subprocess.run(
                [sys.executable, "-m", "tests.replicas_program", str(replicas), path, *cases],
                capture_output=True,
                text=True,
                check=False,
            )
        assert done[replicas].returncode == 0, done[replicas].stderr[-3000:]
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return of


def largest_difference(one, other, case):
    """The largest difference of each kind of value."""
    names = {name for name in one if name.startswith(f"{case}|")}
    assert names and names == {name for name in other if name.startswith(f"{case}|")}
    return replicas_program.compare(
        {name: one[name] for name in names}, {name: other[name] for name in names}
    )[case]


@pytest.mark.slow
@pytest.mark.parametrize(
    "replicas, case",
    [(2, case) for case in EQUAL] + [(3, case) for case in WITH_3 if case in EQUAL],
)
def test_replicas_compute_what_one_does(replicas, case, results):
    differences = largest_difference(results(1), results(replicas), case)
    assert "metrics" in differences
    for kind, difference in differences.items():
        assert difference <= replicas_program.BOUND, (case, kind, difference)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_that_differ_stop_the_run_and_the_step_is_named(replicas, results):
    said = str(results(replicas)["divergence|said"])
    assert "no longer have the same alphas: at step 4 of epoch 1 those of replica" in said
    assert f"those of replica {replicas - 1} differ" in said and "at step 2 they were equal" in said
    assert str(results(1)["divergence|said"]) == ""


@pytest.mark.slow
def test_the_comparison_sees_a_difference(results):
    one = results(1)
    other = dict(one)
    name = next(name for name in one if name.startswith("train_cnn|weights"))
    other[name] = one[name] * (1 + 1e-9)
    assert largest_difference(one, other, "train_cnn")["weights"] > replicas_program.BOUND


@pytest.mark.slow
def test_replicas_and_workers_say_what_one_says_of_what_is_not_finite(tmp_path):
    command = [sys.executable, "-m", "tests.not_finite_program", str(tmp_path)]
    subprocess.run(command, check=True)
    assert launch.run_workers(command, 2) == 0
    said = {path.stem: json.loads(path.read_text("utf-8")) for path in tmp_path.iterdir()}
    one = said.pop("1")
    assert sorted(said) == ["2", "worker_0", "worker_1"]
    assert said.pop("2") == one
    for which, words in said.items():
        assert {"gradient of the alphas", "step of the weights", "example"} < set(words)
        assert words == {case: one[case] for case in words}, which
    # What one says is tested in training_guards_test; this is of the other replica's examples.
    for case, example in {"training example": 2, "validation example": 3, "example": 3}.items():
        assert f"It is example {example} of the step's batch, counted from 0" in one[case][0]
