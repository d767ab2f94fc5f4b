"""Sums over replicas inside shared functions and loops, against the sums written out in NumPy."""

import numpy as np
import pytest

from tests.replicas_results import results_on_replicas

PROGRAM = """
from darts_tf import collective


@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def shared(call, x):
    with collective.within_call(call):
        return x * collective.sum_over_replicas(x**2)


def in_functions(x):
    for _ in range(3):
        x = shared(collective.next_call(), x)
    return x


def in_loop(x):
    def body(t, x):
        x *= collective.sum_over_replicas(x**2)
        return t + 1, x * collective.sum_over_replicas(x**2)

    with collective.within_loop():
        return tf.while_loop(lambda t, _: t < 2, body, (0, x))[1]


def derivatives(compute, x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = compute(x)
        g = inner.gradient(y, x)
    return y, g, outer.gradient(g, x)


def step(x):
    return collective.in_one_order(
        lambda: [*derivatives(in_functions, x), *derivatives(in_loop, x)]
    )


@tf.function(autograph=False)
def run(x):
    return strategy.run(step, args=(x,))


x = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(0.5 + 0.25 * context.replica_id_in_sync_group, tf.float64)
)
found = [strategy.experimental_local_results(values) for values in run(x)]
traces = shared.experimental_get_tracing_count()
np.savez(sys.argv[1], functions=found[:3], loop=found[3:], traces=traces)
"""


@pytest.mark.parametrize("replicas", [2, 3])
def test_sums_in_calls_and_iterations_keep_apart_in_value_and_both_derivatives(replicas, tmp_path):
    results = results_on_replicas(PROGRAM, replicas, tmp_path)
    x = 0.5 + 0.25 * np.arange(replicas)
    s, t = np.sum(x**2), np.sum(x)
    # Of one call the sum is s, its output has sum s^3, and so on: y_r = x_r s^p.
    for name, p in (("functions", 1 + 3 + 9), ("loop", 1 + 3 + 9 + 27)):
        # The gradient on each replica is that of the sum of all y: s^p t.
        gradient = s**p + 2 * p * x * t * s ** (p - 1)
        # That of the sum of all gradients: replicas s^p + 2 p t^2 s^(p-1).
        second = 2 * p * s ** (p - 1) * (replicas * x + 2 * t)
        second += 4 * p * (p - 1) * x * t**2 * s ** (p - 2)
        expected = [x * s**p, gradient, second]
        np.testing.assert_allclose(results[name], expected, rtol=1e-12, err_msg=name)
    assert results["traces"] == replicas  # one for each device, not one for each call
