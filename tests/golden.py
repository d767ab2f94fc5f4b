"""Fixtures recorded from the authors' code, in float64 and float32, for the tests of `golden_*`.

The folder is found by the environment variable DARTS_TF_GOLDEN, else beside the checkout; without
it those tests skip.
"""

import functools
import json
import os
import pathlib

import numpy as np
import pytest

GOLDEN = pathlib.Path(
    os.environ.get(
        "DARTS_TF_GOLDEN", pathlib.Path(__file__).resolve().parents[1].parent / "shared/golden"
    )
)
BOTH = pytest.mark.parametrize("precision", ["float64", "float32"], indirect=True)


def golden(name):
    """The arrays of a fixture by name, or its JSON object; the test skips where it is absent."""
    path = GOLDEN / name
    if not path.is_file():
        pytest.skip(
            f"needs the golden fixture {name}; set DARTS_TF_GOLDEN to the folder that holds it"
        )
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return load_arrays(path)


@functools.cache
def load_arrays(path):
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def close(actual, expected, tolerance, precision, what=""):
    """Compares with an absolute tolerance (float64, float32)."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == np.shape(expected), (
        f"{what}: {actual.shape} against {np.shape(expected)}"
    )
    bound = tolerance[precision == "float32"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=what)
