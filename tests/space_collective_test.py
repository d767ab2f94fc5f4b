"""Sums over replicas inside shared functions, against the sums written out in NumPy."""

import subprocess
import sys

import numpy as np
import pytest

# Logical devices must be made before TensorFlow starts, hence a program of its own.
PROGRAM = """
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

from darts_tf.space import collective


@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def shared(call, x):
    with collective.within_call(call):
        return x * collective.sum_over_replicas(x**2)


def step(x):
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = x
            for _ in range(3):
                y = shared(collective.next_call(), y)
        g = inner.gradient(y, x)
    return y, g, outer.gradient(g, x)


@tf.function(autograph=False)
def run(x):
    return strategy.run(step, args=(x,))


x = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(0.5 + 0.25 * context.replica_id_in_sync_group, tf.float64)
)
y, g, h = (strategy.experimental_local_results(values) for values in run(x))
np.savez(sys.argv[1], y=y, g=g, h=h, traces=shared.experimental_get_tracing_count())
"""


@pytest.mark.parametrize("replicas", [2, 3])
def test_three_calls_of_one_function_sum_apart_in_value_and_both_derivatives(replicas, tmp_path):
    path = tmp_path / "results.npz"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, str(replicas)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # replicas that wait for each other would do so for ever
    )
    assert done.returncode == 0, done.stderr[-3000:]
    x = 0.5 + 0.25 * np.arange(replicas)
    # y_r = x_r s (s^3) (s^9) with s = sum of x^2: of one call s, its output has sum s^3, and so on.
    s = np.sum(x**2)
    # The gradient on each replica is that of the sum of all y: F(x) = s^13 sum(x).
    t = np.sum(x)
    gradient = s**13 + 26 * x * s**12 * t
    # That of the sum of all gradients G = R s^13 + 26 t^2 s^12.
    second = 26 * replicas * x * s**12 + 52 * t * s**12 + 26 * 24 * x * t**2 * s**11
    with np.load(path) as results:
        np.testing.assert_allclose(results["y"], x * s**13, rtol=1e-12)
        np.testing.assert_allclose(results["g"], gradient, rtol=1e-12)
        np.testing.assert_allclose(results["h"], second, rtol=1e-12)
        assert results["traces"] == replicas  # one for each device, not one for each call
