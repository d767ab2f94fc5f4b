"""What a program on several logical devices computes, for the tests of any room."""

import subprocess
import sys

import numpy as np


def results_on_replicas(program, replicas, folder):
    """What a program with so many logical devices saves, by name.

    A program of its own, because devices must be made before TensorFlow starts.

    Args:
        program: Python code; it is given the path of a .npz file to write, and the number.
        replicas: The number.
        folder: Where the file may be.
    """
    path = folder / "results.npz"
    done = subprocess.run(
        [sys.executable, "-c", program, path, str(replicas)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # replicas that wait for each other would do so for ever
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as results:
        return dict(results)
