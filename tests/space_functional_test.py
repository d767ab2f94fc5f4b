"""The tensor functions against plain NumPy loops; second derivatives against differences."""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.space import functional

SIZES = [(6, 6), (5, 7), (7, 4)]


def over_windows(x, size, strides, dilation, combine, fill=0.0):
    """combine((batch, kh, kw, channels) window) at every position, in plain loops.

    The padding is symmetric, dilation * (k - 1) / 2 on each side, as PyTorch's.
    """
    (kh, kw), (batch, height, width, channels) = size, x.shape
    vertical, horizontal = dilation * (kh - 1) // 2, dilation * (kw - 1) // 2
    wide = np.full((batch, height + 2 * vertical, width + 2 * horizontal, channels), fill)
    wide[:, vertical : vertical + height, horizontal : horizontal + width] = x
    rows = []
    for top in range(0, height, strides[0]):
        row = []
        for left in range(0, width, strides[1]):
            window = np.stack(
                [
                    np.stack(
                        [wide[:, top + dilation * i, left + dilation * j] for j in range(kw)], 1
                    )
                    for i in range(kh)
                ],
                1,
            )
            row.append(combine(window))
        rows.append(np.stack(row, 1))
    return np.stack(rows, 1)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize("size", SIZES)
def test_convolution_pads_symmetrically_at_every_stride(size, kernel_size, strides):
    x, kernel = random(2, *size, 3), random(*kernel_size, 3, 4, seed=1)
    expected = over_windows(
        x, kernel_size, strides, 1, lambda window: np.einsum("bijc,ijco->bo", window, kernel)
    )
    actual = functional.convolution(tf.constant(x), tf.constant(kernel), strides)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_depthwise_pads_symmetrically_at_every_stride_and_dilation(
    size, kernel_size, stride, dilation
):
    x, kernel = random(2, *size, 3), random(kernel_size, kernel_size, 3, 1, seed=1)
    expected = over_windows(
        x,
        (kernel_size, kernel_size),
        (stride, stride),
        dilation,
        lambda window: np.einsum("bijc,ijc->bc", window, kernel[..., 0]),
    )
    actual = functional.depthwise(tf.constant(x), tf.constant(kernel), stride, dilation)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_pointwise_is_a_convolution_with_a_1x1_kernel(channels):
    x, kernel = tf.constant(random(2, 5, 4, channels)), tf.constant(random(1, 1, channels, 6))
    expected = tf.nn.conv2d(x, kernel, 1, "VALID")
    np.testing.assert_allclose(functional.pointwise(x, kernel), expected, rtol=0, atol=1e-12)


def test_pointwise_takes_a_batch_of_unknown_size():
    kernel = tf.constant(random(1, 1, 3, 2))
    graph = tf.function(
        lambda x: functional.pointwise(x, kernel),
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float64)],
    )
    assert graph(random(2, 4, 5, 3)).shape == (2, 4, 5, 2)
    assert graph(random(1, 3, 3, 3)).shape == (1, 3, 3, 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_padding_never_wins_in_max_pooling(size, stride):
    x = -1 - np.abs(random(2, *size, 3))  # zero padding would win everywhere along the border
    expected = over_windows(
        x, (3, 3), (stride, stride), 1, lambda window: window.max((1, 2)), fill=-np.inf
    )
    np.testing.assert_array_equal(functional.max_pool(tf.constant(x), stride), expected)
    assert expected.max() < 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_padding_is_not_counted_in_average_pooling(size, stride):
    x = random(2, *size, 3)
    expected = over_windows(
        x, (3, 3), (stride, stride), 1, lambda window: np.nanmean(window, (1, 2)), fill=np.nan
    )
    np.testing.assert_allclose(
        functional.average_pool(tf.constant(x), stride), expected, rtol=0, atol=1e-12
    )
    ones = functional.average_pool(tf.ones([1, *size, 1], tf.float64), stride)
    np.testing.assert_allclose(ones, np.ones(ones.shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_normalises_by_the_batch_and_returns_the_unbiased_variance(
    affine, dtype, tolerance
):
    x = 2 + 3 * random(3, 4, 5, 2)
    gamma, beta = (random(2, seed=seed) if affine else None for seed in (1, 2))
    given = [None if value is None else tf.constant(value, dtype) for value in (gamma, beta)]
    y, mean, variance = functional.batch_norm(tf.constant(x, dtype), *given)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    if affine:
        expected = expected * gamma + beta
    np.testing.assert_allclose(y, expected, rtol=0, atol=3 * tolerance)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=tolerance)
    np.testing.assert_allclose(variance, x.var((0, 1, 2), ddof=1), rtol=2 * tolerance)


def test_batch_norm_of_a_constant_is_its_shift():
    x = tf.fill([2, 3, 3, 1], tf.constant(7.0, tf.float64))
    y, mean, variance = functional.batch_norm(x, None, tf.constant([0.25], tf.float64))
    np.testing.assert_allclose(y, np.full(x.shape, 0.25), rtol=0, atol=1e-12)
    np.testing.assert_allclose([mean[0], variance[0]], [7, 0], rtol=0, atol=1e-12)


def test_half_precision_keeps_its_statistics_in_single():
    x = tf.constant(random(4, 6, 6, 2), tf.float16)
    y, mean, variance = functional.batch_norm(x)
    assert [t.dtype for t in (y, mean, variance)] == [tf.float16, tf.float32, tf.float32]
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_inference_uses_the_given_statistics(affine):
    x, mean, variance = random(2, 3, 3, 2), random(2, seed=1), np.array([0.5, 0.0])
    gamma, beta = (random(2, seed=seed) if affine else None for seed in (2, 3))
    expected = (x - mean) / np.sqrt(variance + 1e-5)
    if affine:
        expected = expected * gamma + beta
    given = [None if v is None else tf.constant(v) for v in (mean, variance, gamma, beta)]
    actual = functional.batch_norm_inference(tf.constant(x), *given)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-9)


# ------------------------------------------------------------------------------ second derivatives


def gradient_objective(function, x):
    """h(x) = sum sin(d/dx sum sin(function(x))); the sines keep every second derivative in it."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(tf.sin(function(x)))
    return tf.reduce_sum(tf.sin(tape.gradient(value, x)))


def second_derivative(function, x):
    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = gradient_objective(function, x)
        return tape.gradient(value, x, unconnected_gradients="zero")

    with tf.device("/CPU:0"):
        return gradient(tf.constant(x)).numpy()


def difference_errors(function, x):
    """|<gradient, d> - central difference along d|, relative, for three random d."""
    objective = tf.function(lambda x: gradient_objective(function, x), autograph=False)
    gradient = second_derivative(function, x)
    errors = []
    for seed in range(3):
        d = random(*x.shape, seed=10 + seed)
        plus, minus = (float(objective(tf.constant(x + s * 1e-6 * d))) for s in (1, -1))
        expected = (plus - minus) / 2e-6
        errors.append(abs(np.sum(gradient * d) - expected) / abs(expected))
    return np.array(errors)


def spread(*shape):
    """Values at least 0.01 apart, so that no window's maximum changes in a difference."""
    return 0.01 * np.random.default_rng(4).permutation(np.prod(shape)).reshape(shape) - 0.5


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (5, 3)])
def test_max_pooling_has_right_second_derivatives_in_a_graph_on_the_cpu(size, stride):
    errors = difference_errors(lambda x: functional.max_pool(x, stride), spread(2, *size, 2))
    assert errors.max() < 1e-6


def test_stock_max_pooling_would_have_wrong_ones():
    # The reason for the function's own second derivative: without it this is how it would fail.
    errors = difference_errors(lambda x: tf.nn.max_pool2d(x, 3, 1, "SAME"), spread(2, 4, 4, 2))
    assert errors.min() > 1e-2


def test_batch_norm_has_right_second_derivatives():
    scale, shift = tf.constant([0.7, 1.3], tf.float64), tf.constant([0.1, -0.2], tf.float64)
    errors = difference_errors(
        lambda x: functional.batch_norm(x, scale, shift)[0], random(2, 3, 3, 2)
    )
    assert errors.max() < 1e-6


def test_batch_norm_in_single_precision_has_the_second_derivatives_of_double():
    x = random(2, 3, 3, 2)
    exact = second_derivative(lambda x: functional.batch_norm(x)[0], x)
    single = second_derivative(lambda x: functional.batch_norm(x)[0], x.astype(np.float32))
    np.testing.assert_allclose(single, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_stock_moments_would_give_batch_norm_wrong_ones():
    # The reason for moments of our own: these stop the gradient at the mean.
    def stock(x):
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        return (x - mean) * tf.math.rsqrt(variance + 1e-5)

    assert difference_errors(stock, random(2, 3, 3, 2)).min() > 1e-4
