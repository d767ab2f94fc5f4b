"""BatchNorm over replicas by the fused kernels, in float32, against one device in float64.

(In float64, where there is no fused kernel: tests/distribution_test.py.)
"""

import numpy as np
import pytest

from tests.replicas_results import results_on_replicas

PROGRAM = """
from darts_tf import collective
from darts_tf.space.functional import batch_norm

random = np.random.default_rng(0)
x, t, u = random.normal(1.0, 2.0, size=(3, 5, 4, 4, 3))
gamma, beta, c = random.normal(size=(3, 3))


def compute(x, t, u, gamma, beta):
    with tf.GradientTape() as outer:
        outer.watch([x, gamma, beta])
        with tf.GradientTape() as inner:
            inner.watch([x, gamma, beta])
            y, mean, variance = batch_norm(x, gamma, beta)
            loss = tf.reduce_sum(t * y**3)
        of_x, of_gamma, of_beta = inner.gradient(loss, [x, gamma, beta])
        slope = tf.reduce_sum(u * of_x) + tf.reduce_sum(tf.cast(c, x.dtype) * of_gamma)
    second = outer.gradient(slope, [x, gamma, beta])
    return [y, of_x, second[0]], [of_gamma, of_beta, *second[1:]], [mean, variance]


ends = np.linspace(0, len(x), replicas + 1).astype(int)


def part(of_all):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            of_all[slice(*ends[context.replica_id_in_sync_group :][:2])], tf.float32
        )
    )


@tf.function(autograph=False)
def run(*parts):
    return strategy.run(
        lambda *own: collective.in_one_order(
            lambda: compute(*own, tf.constant(gamma, tf.float32), tf.constant(beta, tf.float32))
        ),
        args=parts,
    )


found = [
    [strategy.experimental_local_results(value) for value in kind]
    for kind in run(part(x), part(t), part(u))
]
# Rows of each replica; shares of a sum; the same on all.
found = [
    *(np.concatenate(value) for value in found[0]),
    *(np.sum(value, 0) for value in found[1]),
    *(value[-1].numpy() for value in found[2]),
]
expected = tf.nest.flatten(compute(*map(tf.constant, (x, t, u, gamma, beta))))
names = "y of_x second_of_x of_gamma of_beta second_of_gamma second_of_beta mean variance".split()
np.savez(
    sys.argv[1],
    **{f"found_{name}": value for name, value in zip(names, found, strict=True)},
    **{f"expected_{name}": value for name, value in zip(names, expected, strict=True)},
)
"""


@pytest.mark.parametrize("replicas", [2, 3])
def test_values_and_both_derivatives_are_those_of_the_whole_batch(replicas, tmp_path):
    results = results_on_replicas(PROGRAM, replicas, tmp_path)
    for name in (name for name in results if name.startswith("found")):
        expected = results[name.replace("found", "expected")]
        error = np.abs(results[name] - expected).max() / np.abs(expected).max()
        assert error < 1e-5, (name, error)
