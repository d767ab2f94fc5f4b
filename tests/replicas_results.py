"""What a program on several logical devices computes, for the tests of any room."""

import subprocess
import sys

import numpy as np

BEGIN = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import numpy as np
import tensorflow as tf

replicas = int(sys.argv[2])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
"""
"""What every program begins with: devices must be made before TensorFlow starts."""


def results_on_replicas(program, replicas, folder):
    """What a program with so many logical devices saves, by name.

    Args:
        program: Python code behind `BEGIN`; it is given the path of a .npz file to write, and the
            number.
        replicas: The number.
        folder: Where the file may be.
    """
    path = folder / "results.npz"
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, path, str(replicas)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # replicas that wait for each other would do so for ever
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as results:
        return dict(results)
