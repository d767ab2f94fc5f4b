"""Convolutions whose gradients are written out, in the precision and window where they are.

The gradient of kernels wider than 3 is put together of pieces only in float32 at stride 1 on a
CPU: tests in float64 do not reach it. Here float32 is held against stock TensorFlow in float64.
"""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.space import functional
from darts_tf.space.tracing import gradients_of, keeping

CHANNELS = (3, 4)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def padded(x, size):
    around = [size // 2, size // 2]
    return tf.pad(x, [[0, 0], around, around, [0, 0]])


def stock_depthwise(x, kernel, stride):
    window = [1, stride, stride, 1]
    return tf.nn.depthwise_conv2d(padded(x, kernel.shape[0]), kernel, window, "VALID")


def stock_pointwise(x, kernel):
    return tf.nn.conv2d(x, kernel, 1, "VALID")


# Name: ours, stock, shapes of the kernels by the size of the depthwise one.
FUNCTIONS = {
    "depthwise": (
        functional.depthwise,
        stock_depthwise,
        lambda size: [(size, size, CHANNELS[0], 1)],
    ),
    "pointwise": (
        lambda x, kernel, stride: functional.pointwise(x, kernel),
        lambda x, kernel, stride: stock_pointwise(x, kernel),
        lambda size: [(1, 1, *CHANNELS)],
    ),
    "separable": (
        functional.separable,
        lambda x, first, second, stride: stock_pointwise(stock_depthwise(x, first, stride), second),
        lambda size: [(size, size, CHANNELS[0], 1), (1, 1, *CHANNELS)],
    ),
}
FUNCTIONS["separable, keeping"] = (keeping()(functional.separable), *FUNCTIONS["separable"][1:])
CASES = [
    *(("depthwise", size, stride) for size in (3, 5, 7) for stride in (1, 2)),
    *(("separable", size, stride) for size in (3, 5, 7) for stride in (1, 2)),
    ("separable, keeping", 5, 1),
    ("separable, keeping", 3, 2),
    ("pointwise", 1, 1),
]
# 3 x 2 is smaller than the wide kernels: whole columns of them meet nothing but padding.
SIZES = [(6, 8), (5, 7), (3, 2)]


def case(name, kernel_size, size):
    """The arguments of a function, in float64.

    Kernels as large as in a network, so that the sine does not magnify what is rounded before it.
    """
    shapes = FUNCTIONS[name][2](kernel_size)
    kernels = [
        random(*shape, seed=1 + index) / np.sqrt(np.prod(shape[:2]) * (shape[2] if index else 1))
        for index, shape in enumerate(shapes)
    ]
    return [random(2, *size, CHANNELS[0]), *kernels]


def derivatives(function, arguments, stride, order):
    """Those of sum sin(f) by all arguments, or of the sum of the sines of these, in a graph.

    The sines keep every derivative from being constant or zero.
    """

    def first(arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = tf.reduce_sum(tf.sin(function(*arguments, stride)))
        return tape.gradient(value, arguments)

    def second(arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in first(arguments)])
        return tape.gradient(value, arguments)

    graph = tf.function(first if order == 1 else second, autograph=False)
    with tf.device("/CPU:0"):
        return [g.numpy() for g in graph([tf.constant(a) for a in arguments])]


@pytest.mark.parametrize("order", [1, 2], ids=["first", "second"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name, kernel_size, stride", CASES)
def test_derivatives_in_single_precision_are_those_of_stock_tensorflow_in_double(
    name, kernel_size, stride, size, order
):
    ours, stock, _ = FUNCTIONS[name]
    arguments = case(name, kernel_size, size)
    # The same numbers for both: rounded to single precision first.
    single = [a.astype(np.float32) for a in arguments]
    expected = derivatives(stock, [a.astype(np.float64) for a in single], stride, order)
    actual = derivatives(ours, single, stride, order)
    for given, wanted in zip(actual, expected, strict=True):
        assert given.dtype == np.float32
        assert np.abs(wanted).max() > 1e-2
        np.testing.assert_allclose(given, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("order", [1, 2], ids=["first", "second"])
@pytest.mark.parametrize("name, kernel_size, stride", CASES)
def test_derivatives_in_double_precision_are_those_of_stock_tensorflow(
    name, kernel_size, stride, order
):
    ours, stock, _ = FUNCTIONS[name]
    arguments = case(name, kernel_size, (5, 6))
    expected = derivatives(stock, arguments, stride, order)
    actual = derivatives(ours, arguments, stride, order)
    for given, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("name, kernel_size, stride", CASES)
def test_where_only_alphas_want_gradients_the_input_has_its_own_and_kernels_none(
    name, kernel_size, stride
):
    """Alphas are reached through the input; a kernel's gradient would be computed for nobody.

    In a function that is called, as that of a block: stopping the gradient at its weights alone
    would not keep the work out of its backward pass.
    """
    ours, stock, _ = FUNCTIONS[name]
    x, *kernels = map(tf.constant, case(name, kernel_size, (5, 6)))

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([x, *kernels])
            value = tf.reduce_sum(tf.sin(function(x, *kernels)))
        return tape.gradient(value, [x, *kernels])

    @tf.function(autograph=False)
    def block(x, *kernels):
        return ours(x, *map(tf.stop_gradient, kernels), stride)

    with gradients_of("alphas"):
        graph = tf.function(lambda: gradients(block), autograph=False).get_concrete_function()
    actual, *of_kernels = graph()
    expected = gradients(lambda *arguments: stock(*arguments, stride))[0].numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert of_kernels == [None] * len(kernels)
    functions = graph.graph.as_graph_def().library.function
    kinds = [node.op for function in functions for node in function.node_def]
    assert ("DepthwiseConv2dNativeBackpropInput" in kinds) == (name != "pointwise")
    assert "DepthwiseConv2dNativeBackpropFilter" not in kinds


# ------------------------------------------------------------------------------------------ phases


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 2)])
def test_phases_are_put_together_again(size):
    x = random(3, *size, 2)
    parts = functional.phases(tf.constant(x))
    expected = np.concatenate(
        [x[:, row::2, column::2] for row, column in ((0, 0), (0, 1), (1, 0), (1, 1))]
    )
    np.testing.assert_array_equal(parts, expected)
    np.testing.assert_array_equal(functional.merge_phases(parts), x)
    np.testing.assert_array_equal(functional.phases(functional.merge_phases(parts)), parts)


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (5, 3), (1, 1)])
def test_phases_of_odd_sizes_are_filled_with_zeros(size):
    x = random(3, *size, 2)
    whole = np.zeros((3, *(length + length % 2 for length in size), 2))
    whole[:, : size[0], : size[1]] = x
    expected = np.concatenate(
        [whole[:, row::2, column::2] for row, column in ((0, 0), (0, 1), (1, 0), (1, 1))]
    )
    np.testing.assert_array_equal(functional.phases(tf.constant(x)), expected)


def test_phases_of_unknown_sizes_are_the_same():
    signature = [tf.TensorSpec((None, None, None, 2), tf.float64)]
    apart = tf.function(functional.phases, autograph=False, input_signature=signature)
    together = tf.function(functional.merge_phases, autograph=False, input_signature=signature)
    for size in ((4, 6), (5, 3)):
        x = tf.constant(random(2, *size, 2))
        np.testing.assert_array_equal(apart(x), functional.phases(x))
    np.testing.assert_array_equal(together(apart(random(2, 4, 6, 2))), random(2, 4, 6, 2))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [(8, 6), (4, 4)])
def test_a_convolution_of_phases_is_the_dilated_one_of_the_whole(kernel_size, size):
    x, kernel = random(2, *size, 3), random(kernel_size, kernel_size, 3, 1, seed=1)
    radius = kernel_size - 1
    wide = np.pad(x, [(0, 0), (radius, radius), (radius, radius), (0, 0)])
    expected = sum(
        wide[:, 2 * i : 2 * i + size[0], 2 * j : 2 * j + size[1]] * kernel[i, j, :, 0]
        for i in range(kernel_size)
        for j in range(kernel_size)
    )
    parts = functional.depthwise(functional.phases(tf.constant(x)), tf.constant(kernel))
    np.testing.assert_allclose(functional.merge_phases(parts), expected, rtol=0, atol=1e-12)
