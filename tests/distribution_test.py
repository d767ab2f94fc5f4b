"""Two replicas compute what one does on the same global batch; on logical CPUs of one machine."""

import subprocess
import sys

import numpy as np
import pytest

# Logical devices must be made before TensorFlow starts, hence a program of its own.
PROGRAM = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")

import darts_tf

kind, path = sys.argv[1:]
random = np.random.default_rng(0)
STEPS = 3


def batch():
    return random.normal(size=(8, 8, 8, 1)), random.integers(0, 3, 8).astype(np.int32)


batches = [(batch(), batch()) for _ in range(STEPS)]
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make():
    keras.utils.set_random_seed(0)
    if kind == "evaluation":
        genotype = darts_tf.Genotype(
            [[("skip_connect", 0), ("dil_conv_3x3", 1)]], [2],
            [[("max_pool_3x3", 0), ("skip_connect", 1)]], [2],
        )
        network = darts_tf.EvaluationNetwork(genotype, 3, 2, 1, auxiliary=True,
                                             image_shape=(8, 8, 1))
        model = darts_tf.ArchitectureEvaluation(network)
        model.compile(darts_tf.SGD(0.1, clip_norm=0.5), loss)
        return model
    supernet = darts_tf.Supernet(
        3, 2, 1, 1, (8, 8, 1), primitives=("max_pool_3x3", "dil_conv_3x3")
    )
    model = darts_tf.ArchitectureSearch(supernet, order=kind)
    model.compile(darts_tf.SGD(0.1, clip_norm=0.5), darts_tf.Adam(0.01), loss)
    return model


def data(step):
    return batches[step][0] if kind == "evaluation" else batches[step]


def show(model, name):
    # Weights, alphas and running statistics, in order; and the metrics of all steps.
    inner = model.network if kind == "evaluation" else model.supernet
    values = {f"{name}/{i}": np.asarray(v.value) for i, v in enumerate(inner.variables)}
    metrics = {f"{name}/{k}": np.asarray(v) for k, v in model.get_metrics_result().items()}
    return values | metrics


start = make()
weights = start.get_weights()
for step in range(STEPS):
    start.train_step(data(step))
results = show(start, "one")

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = make()
    model.set_weights(weights)


@tf.function(autograph=False)
def run(halves):
    return strategy.run(model.train_step, args=(halves,))


def half(replica, step):
    # Examples 0..3 for one replica, 4..7 for the other.
    return tf.nest.map_structure(lambda a: tf.constant(a[4 * replica : 4 * replica + 4]),
                                 data(step))


for step in range(STEPS):
    parts = [half(replica, step) for replica in (0, 1)]
    run(tf.nest.map_structure(
        lambda *values: strategy.experimental_distribute_values_from_function(
            lambda context: values[context.replica_id_in_sync_group]
        ),
        *parts,
    ))
results |= show(model, "two")
np.savez(path, **results)
"""


@pytest.mark.parametrize(
    "kind", ["first", pytest.param("second_exact", marks=pytest.mark.slow), "evaluation"]
)
def test_two_replicas_compute_what_one_does(kind, tmp_path):
    path = tmp_path / "results.npz"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as results:
        names = {name.removeprefix("one/") for name in results.files if name.startswith("one/")}
        assert "loss" in names and len(results.files) == 2 * len(names)
        for name in names:
            one, two = results[f"one/{name}"], results[f"two/{name}"]
            # Keras keeps the metrics of a step in float32.
            bound = 1e-6 if name in ("loss", "arch_loss") else 1e-10
            np.testing.assert_allclose(two, one, rtol=0, atol=bound, err_msg=name)
