"""The tensor functions under every primitive: convolutions, pools, BatchNorm, as published.

Images are (batch, height, width, channels). All of them are pure, so that the search can evaluate a
network at any weights. Each has right second derivatives inside `tf.function`, which the stock
stride-1 max pooling (CPU kernel) and `tf.nn.moments` have not; the exact second order needs them.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

EPSILON = 1e-5
"""Added to the variance by every BatchNorm (the published value; Keras' default is 1e-3)."""

MOMENTUM = 0.9
"""Share of the old running statistics kept at an update (Keras' default is 0.99)."""


_exporting = contextvars.ContextVar("exporting", default=False)


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Within it, graphs are made for inference elsewhere: one flat graph of stock operations."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


def is_exporting() -> bool:
    """Whether the graph that is being made is one to export."""
    return _exporting.get()


def replicas() -> int:
    """Number of replicas whose batches form one global batch; 1 outside a replica context."""
    if tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_replica_context().num_replicas_in_sync


def _pad(x: tf.Tensor, vertical: int, horizontal: int, value: float = 0.0) -> tf.Tensor:
    """Pads symmetrically, as the published networks do; "SAME" does not at stride 2."""
    return tf.pad(
        x, [[0, 0], [vertical, vertical], [horizontal, horizontal], [0, 0]], constant_values=value
    )


def convolution(x: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, int] = (1, 1)) -> tf.Tensor:
    """Convolves with zero padding (k - 1) / 2 on every side.

    Args:
        x: (batch, height, width, channels in).
        kernel: (kernel height, kernel width, channels in, channels out), odd sizes.
        strides: Vertical and horizontal stride.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), channels out).
    """
    height, width = kernel.shape[:2]
    if strides == (1, 1):
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    return tf.nn.conv2d(_pad(x, height // 2, width // 2), kernel, strides, "VALID")


def pointwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with a 1x1 kernel of shape (1, 1, channels in, channels out), as a matrix product.

    On a CPU the product takes half the time of the convolution kernel.
    """
    channels_in, channels_out = kernel.shape[2:]
    matrix = tf.reshape(kernel, [channels_in, channels_out])
    rows = tf.matmul(tf.reshape(x, [-1, channels_in]), matrix)
    height, width = (x.shape[axis] or tf.shape(x)[axis] for axis in (1, 2))
    return tf.reshape(rows, [-1, height, width, channels_out])


def depthwise(x: tf.Tensor, kernel: tf.Tensor, stride: int = 1, dilation: int = 1) -> tf.Tensor:
    """Convolves every channel on its own, zero padding dilation * (k - 1) / 2 on every side.

    Args:
        x: (batch, height, width, channels).
        kernel: (k, k, channels, 1), k odd.
        stride: 1 or 2.
        dilation: 1 or 2.
    """
    size = kernel.shape[0]
    if stride == 1:
        return tf.nn.depthwise_conv2d(x, kernel, [1] * 4, "SAME", dilations=[dilation] * 2)
    if dilation == 2:
        # Stride 2 at dilation 2 reads only even pixels (the padding k - 1 is even), so it is an
        # ordinary convolution of those. TensorFlow's kernel accepts both options together and is
        # silently wrong.
        return tf.nn.depthwise_conv2d(x[:, ::2, ::2], kernel, [1] * 4, "SAME")
    x = _pad(x, size // 2, size // 2)
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")


def max_pool(x: tf.Tensor, stride: int) -> tf.Tensor:
    """3x3 max pooling with padding 1, in which the padding never wins."""
    if stride == 1 and is_exporting():
        return tf.nn.max_pool2d(x, 3, 1, "SAME")
    if stride == 1:
        return _max_pool_stride_1(x)
    return tf.nn.max_pool2d(_pad(x, 1, 1, x.dtype.min), 3, stride, "VALID")


def _max_pool_stride_1(x: tf.Tensor) -> tf.Tensor:
    """Stock max pooling with its second derivative written out.

    Inside `tf.function` on a CPU the stock kernel for the gradient of the gradient takes its
    input's buffer as its output when the shapes agree, as they do at stride 1, and returns zeros.
    """
    window = {"ksize": [1, 3, 3, 1], "strides": [1, 1, 1, 1], "padding": "SAME"}

    @tf.custom_gradient
    def pool(x):
        y = tf.nn.max_pool2d(x, 3, 1, "SAME")

        @tf.custom_gradient
        def backward(dy, x, y):
            dx = tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, **window)

            def backward_of_backward(ddx):  # each window passes on the value at its maximum
                _, winners = tf.nn.max_pool_with_argmax(
                    x, 3, 1, "SAME", include_batch_in_index=True
                )
                return tf.gather(tf.reshape(ddx, [-1]), winners), None, None

            return dx, backward_of_backward

        return y, lambda dy: backward(dy, tf.stop_gradient(x), tf.stop_gradient(y))

    return pool(x)


def average_pool(x: tf.Tensor, stride: int) -> tf.Tensor:
    """3x3 average pooling with padding 1, in which the padding is not counted."""
    if stride == 1:
        return tf.nn.avg_pool2d(x, 3, 1, "SAME")
    total = tf.nn.avg_pool2d(_pad(x, 1, 1), 3, stride, "VALID")
    counted = tf.nn.avg_pool2d(_pad(tf.ones_like(x[:1, :, :, :1]), 1, 1), 3, stride, "VALID")
    return total / counted


def batch_norm(
    x: tf.Tensor, gamma: tf.Tensor | None = None, beta: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises by the statistics of the batch; the gradient flows through them.

    Under a strategy the batch is the global one: the statistics are reduced over the replicas.

    Args:
        x: (batch, height, width, channels).
        gamma: (channels,) scale; None for 1.
        beta: (channels,) shift; None for 0.

    Returns:
        The normalised tensor, the batch mean (channels,) and the unbiased batch variance
        (channels,), n / (n - 1) times the one normalised with, n = batch * height * width: the
        published networks keep that one as running variance. (Keras' BatchNormalization keeps the
        biased one.)
    """
    dtype = (
        tf.float64 if x.dtype == tf.float64 else tf.float32
    )  # statistics stay in float32 at half precision
    gamma = tf.ones([x.shape[-1]], dtype) if gamma is None else tf.cast(gamma, dtype)
    beta = tf.zeros([x.shape[-1]], dtype) if beta is None else tf.cast(beta, dtype)
    if replicas() == 1 and x.dtype != tf.float64:
        # The fused kernel takes a quarter of the time, and has no float64.
        return tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=EPSILON, is_training=True)[
            :3
        ]
    wide = tf.cast(x, dtype)
    mean, variance, count = _moments(wide)
    y = (wide - mean) * tf.math.rsqrt(variance + EPSILON) * gamma + beta
    return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1, 1)


def _moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean and biased variance over the global batch, and its number of pixels.

    Written out because `tf.nn.moments` stops the gradient at the mean: harmless at first order,
    wrong at second.
    """

    def total(value):
        if replicas() == 1:
            return value
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    count = total(tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype))
    mean = total(tf.reduce_sum(x, [0, 1, 2])) / count
    variance = total(tf.reduce_sum(tf.math.squared_difference(x, mean), [0, 1, 2])) / count
    return mean, variance, count


def batch_norm_inference(
    x: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    gamma: tf.Tensor | None = None,
    beta: tf.Tensor | None = None,
) -> tf.Tensor:
    """Normalises by running statistics, each of shape (channels,)."""
    scale = tf.math.rsqrt(variance + EPSILON)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    return x * tf.cast(scale, x.dtype) + tf.cast(shift, x.dtype)
