"""Dual numbers: every tensor function's derivative along a direction, and that one's gradient."""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.space import dual, functional
from darts_tf.space.dual import Dual
from darts_tf.space.primitives import ACTIVATIONS, activation_function

STEP = 1e-6


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def apart(*shape, seed=4):
    """Values at least 0.01 apart and 0.005 from zero, so that no maximum or sign changes."""
    order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return (0.01 * order - 0.005 * len(order) + 0.005).reshape(shape)


def norm(x, gamma=None, beta=None):
    return functional.batch_norm(x, gamma, beta)[0]


X = apart(2, 4, 6, 3)
GAMMA, BETA = random(3, seed=8), random(3, seed=9)
# A function, and the arguments that carry a derivative.
CASES = {
    "convolution": (functional.convolution, [X, random(3, 3, 3, 2, seed=1)]),
    "convolution 1x7 stride 2": (
        lambda x, k: functional.convolution(x, k, (1, 2)),
        [X, random(1, 7, 3, 2, seed=1)],
    ),
    **{
        f"depthwise {size} stride {stride} dilation {dilation}": (
            lambda x, k, s=stride, d=dilation: functional.depthwise(x, k, s, d),
            [X, random(size, size, 3, 1, seed=1)],
        )
        for size, stride, dilation in ((3, 1, 1), (5, 1, 1), (3, 2, 1), (3, 1, 2), (3, 2, 2))
    },
    "pointwise": (functional.pointwise, [X, random(1, 1, 3, 2, seed=1)]),
    **{
        f"separable stride {stride}": (
            lambda x, k, p, s=stride: functional.separable(x, k, p, s),
            [X, random(5, 5, 3, 1, seed=1), random(1, 1, 3, 2, seed=2)],
        )
        for stride in (1, 2)
    },
    **{
        f"{name} stride {stride}": (lambda x, f=pool, s=stride: f(x, s), [X])
        for name, pool in (("max", functional.max_pool), ("average", functional.average_pool))
        for stride in (1, 2)
    },
    "batch norm": (norm, [X]),
    "batch norm with a fixed scale": (lambda x: norm(x, tf.constant(GAMMA)), [X]),
    "batch norm with moving scale and shift": (norm, [X, GAMMA, BETA]),
    "phases": (functional.phases, [X]),
    "phases of odd sizes": (functional.phases, [apart(2, 3, 5, 2)]),
    "merge phases": (functional.merge_phases, [apart(8, 2, 3, 2)]),
    "join": (lambda *parts: dual.join(parts), [X, random(2, 4, 6, 1)]),
    "total": (lambda *terms: dual.total(terms), [X, random(2, 4, 6, 3, seed=5)]),
    "scaled": (lambda x: dual.scaled(x, tf.constant(0.3, tf.float64)), [X]),
    **{name: (activation_function(name), [X]) for name in ACTIVATIONS},
}


def directions_of(arguments, seed):
    return [random(*a.shape, seed=seed + i) for i, a in enumerate(arguments)]


def moved(arguments, directions, step):
    return [a + step * d for a, d in zip(arguments, directions, strict=True)]


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


def duals(values, tangents):
    return [Dual(v, t) for v, t in zip(values, tangents, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_the_tangent_is_the_derivative_along_the_directions(name):
    function, arguments = CASES[name]
    directions = directions_of(arguments, 20)
    plain = [
        function(*map(tf.constant, moved(arguments, directions, step))).numpy()
        for step in (0, STEP, -STEP)
    ]
    y = function(*duals(map(tf.constant, arguments), map(tf.constant, directions)))
    np.testing.assert_allclose(y.value, plain[0], rtol=0, atol=1e-12)
    expected = (plain[1] - plain[2]) / (2 * STEP)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(y.tangent, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    assert (y.shape, y.dtype) == (plain[0].shape, tf.float64)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_the_tangent_is_right_for_values_and_directions(name):
    """It is what the exact second order takes from it: in a graph, by one pass backward."""
    function, arguments = CASES[name]
    count = len(arguments)
    inputs = [*arguments, *directions_of(arguments, 20)]

    def objective(inputs):
        y = function(*duals(inputs[:count], inputs[count:]))
        return tf.reduce_sum(tf.sin(y.value + 2) * tf.sin(y.tangent))

    @tf.function(autograph=False)
    def gradients(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = objective(inputs)
        return tape.gradient(value, inputs, unconnected_gradients="zero")

    graph = tf.function(objective, autograph=False)
    with tf.device("/CPU:0"):
        gradient = gradients(list(map(tf.constant, inputs)))
        for moving in (range(count), range(count, 2 * count)):
            d = [
                random(*t.shape, seed=40 + i) if i in moving else np.zeros_like(t)
                for i, t in enumerate(inputs)
            ]
            plus, minus = (
                float(graph(list(map(tf.constant, moved(inputs, d, s))))) for s in (STEP, -STEP)
            )
            expected = (plus - minus) / (2 * STEP)
            assert abs(expected) > 1e-2
            assert abs(flat(gradient) @ flat(d) - expected) < 1e-6 * abs(expected)


@pytest.mark.parametrize("name", CASES)
def test_no_tangent_stands_for_a_derivative_of_zero(name):
    function, arguments = CASES[name]
    values = [tf.constant(a) for a in arguments]
    y = function(*duals(values, [None] * len(values)))
    np.testing.assert_allclose(y.value, function(*values), rtol=0, atol=1e-12)
    if y.tangent is not None:
        np.testing.assert_array_equal(y.tangent, np.zeros(y.shape))


def test_no_tangent_stands_for_zero_in_the_fused_batch_norm_too():
    x = tf.constant(X, tf.float32)
    y = norm(Dual(x, None))
    np.testing.assert_allclose(y.value, norm(x), rtol=0, atol=1e-6)
    assert y.tangent is None or not np.any(y.tangent)


BY_ARGUMENT = [
    (name, moving)
    for name, (_, arguments) in CASES.items()
    for moving in range(len(arguments))
    if len(arguments) > 1 and "batch norm" not in name
]


@pytest.mark.parametrize("fixed", ["tensor", "no tangent"])
@pytest.mark.parametrize("name, moving", BY_ARGUMENT)
def test_arguments_without_a_derivative_count_as_constants(name, moving, fixed):
    """As the image does: it does not move with the weights."""
    function, arguments = CASES[name]
    values = [tf.constant(a) for a in arguments]
    direction = tf.constant(directions_of(arguments, 20)[moving])
    given = values if fixed == "tensor" else duals(values, [None] * len(values))
    given = [
        Dual(v, direction) if i == moving else g
        for i, (v, g) in enumerate(zip(values, given, strict=True))
    ]
    still = [direction if i == moving else tf.zeros_like(v) for i, v in enumerate(values)]
    expected = function(*duals(values, still)).tangent
    np.testing.assert_allclose(function(*given).tangent, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["plain", "fixed scale", "moving scale and shift"])
def test_batch_norm_in_single_precision_agrees_with_double(case):
    """Single precision takes the fused kernel, with a second derivative written by hand."""
    x = random(3, 4, 5, 3) * [0.3, 1.0, 5.0] + [0, 2, -1]
    inputs = [x, random(*x.shape, seed=1), GAMMA]
    if case == "moving scale and shift":
        inputs += [random(3, seed=2), BETA, random(3, seed=3)]

    def function(x, v, gamma, *moving):
        if not moving:
            return norm(Dual(x, v), gamma if case == "fixed scale" else None)
        gamma_tangent, beta, beta_tangent = moving
        return norm(Dual(x, v), Dual(gamma, gamma_tangent), Dual(beta, beta_tangent))

    @tf.function(autograph=False)
    def everything(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
            value = tf.reduce_sum(tf.sin(y.value + 2) * tf.sin(y.tangent))
        return [*y, *tape.gradient(value, inputs, unconnected_gradients="zero")]

    single = [t.astype(np.float32) for t in inputs]
    exact = everything([tf.constant(t.astype(np.float64)) for t in single])
    actual = everything(list(map(tf.constant, single)))
    for given, wanted in zip(actual, exact, strict=True):
        assert given.dtype == tf.float32
        largest = np.abs(wanted).max()
        np.testing.assert_allclose(given, wanted, rtol=0, atol=2e-5 * largest)
