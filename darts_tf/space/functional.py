"""The tensor functions under every primitive: convolutions, pools, BatchNorm, as published.

Images are (batch, height, width, channels). All of them are pure, so that the search can evaluate a
network at any weights. Each has right second derivatives inside `tf.function`, which the stock
stride-1 max pooling (CPU kernel) and `tf.nn.moments` have not; the exact second order needs them.
In place of a tensor each takes a `Dual`.
"""

import tensorflow as tf

from darts_tf.space.dual import bilinear, linear
from darts_tf.space.normalisation import batch_norm, batch_norm_inference
from darts_tf.space.pooling import average_pool, max_pool, pad
from darts_tf.space.tracing import is_exporting, on_gpu

__all__ = [
    "average_pool",
    "batch_norm",
    "batch_norm_inference",
    "convolution",
    "depthwise",
    "max_pool",
    "merge_phases",
    "phases",
    "pointwise",
]


@bilinear
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
    return tf.nn.conv2d(pad(x, height // 2, width // 2), kernel, strides, "VALID")


@bilinear
def pointwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with a 1x1 kernel of shape (1, 1, channels in, channels out), as a matrix product.

    On a CPU the product takes half the time of the convolution kernel.
    """
    channels_in, channels_out = kernel.shape[2:]
    matrix = tf.reshape(kernel, [channels_in, channels_out])
    rows = tf.matmul(tf.reshape(x, [-1, channels_in]), matrix)
    height, width = (x.shape[axis] or tf.shape(x)[axis] for axis in (1, 2))
    return tf.reshape(rows, [-1, height, width, channels_out])


@bilinear
def depthwise(x: tf.Tensor, kernel: tf.Tensor, stride: int = 1, dilation: int = 1) -> tf.Tensor:
    """Convolves every channel on its own, zero padding dilation * (k - 1) / 2 on every side.

    Args:
        x: (batch, height, width, channels).
        kernel: (k, k, channels, 1), k odd.
        stride: 1 or 2.
        dilation: 1 or 2.
    """
    size = kernel.shape[0]
    if stride == 1 and dilation == 1:
        return _depthwise(x, kernel)
    if stride == 1:
        return tf.nn.depthwise_conv2d(x, kernel, [1] * 4, "SAME", dilations=[dilation] * 2)
    if dilation == 2:
        # Stride 2 at dilation 2 reads only even pixels (the padding k - 1 is even), so it is an
        # ordinary convolution of those. TensorFlow's kernel accepts both options together and is
        # silently wrong.
        return _depthwise(x[:, ::2, ::2], kernel)
    x = pad(x, size // 2, size // 2)
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")


PIECE = 3
"""Width of the pieces in which a CPU computes the gradient of a wider depthwise kernel."""


def _depthwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A depthwise convolution at stride 1, with a fast gradient of a wide kernel on a CPU."""
    size = kernel.shape[0]
    stock = {"strides": [1] * 4, "padding": "SAME"}
    if size <= PIECE or on_gpu() or is_exporting() or x.dtype == tf.float64:
        return tf.nn.depthwise_conv2d(x, kernel, **stock)

    def of_input(dy, kernel):
        return tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=tf.shape(dy), filter=kernel, out_backprop=dy, **stock
        )

    @tf.custom_gradient
    def convolve(x, kernel):
        y = tf.nn.depthwise_conv2d(x, kernel, **stock)
        # An identity, because it belongs to the graph of the gradient: a gradient of it could not
        # reach a tensor of this one.
        return y, lambda dy: (of_input(dy, kernel), of_kernel(tf.identity(x), dy))

    @tf.custom_gradient
    def of_kernel(x, dy):
        """The gradient of the kernel, a few columns at a time.

        The fast CPU kernel stops at 3 columns: 5 x 5 at once takes two to three times as long as
        twice 5 x 3.
        """
        columns, done, radius = [], 0, size // 2
        while done < size:
            first = min(done, size - PIECE)
            # The columns of x, zeros outside, that kernel columns first .. first + 2 meet.
            left, right = first - radius, first + PIECE - 1 - radius
            part = x[:, :, max(left, 0) : min(right, 0) or None]
            sides = [max(-left, 0), max(right, 0)]
            part = tf.pad(part, [[0, 0], [radius, radius], sides, [0, 0]])
            piece = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=part,
                filter_sizes=[size, PIECE, *kernel.shape[2:]],
                out_backprop=dy,
                strides=[1] * 4,
                padding="VALID",
            )
            columns.append(piece[:, done - first :])
            done = first + PIECE

        def backward(c):  # of sum(c * gradient), linear in x and in dy
            return of_input(dy, c), tf.nn.depthwise_conv2d(x, c, **stock)

        return tf.concat(columns, 1), backward

    return convolve(x, kernel)


@linear
def phases(x: tf.Tensor) -> tf.Tensor:
    """The pixels (0, 0), (0, 2), ..., then (0, 1), ..., (1, 0), ..., (1, 1), ... as four batches.

    A convolution at dilation 2 is one at dilation 1 on each of them. Odd sizes are filled with
    zeros.

    Args:
        x: (batch, height, width, channels).

    Returns:
        (4 * batch, ceil(height / 2), ceil(width / 2), channels).
    """
    height, width = (x.shape[axis] or tf.shape(x)[axis] for axis in (1, 2))
    if isinstance(height + width, tf.Tensor) or height % 2 or width % 2:
        x = tf.pad(x, [[0, 0], [0, height % 2], [0, width % 2], [0, 0]])
        height, width = height + height % 2, width + width % 2
    channels = x.shape[3]
    x = tf.reshape(x, [-1, height // 2, 2, width // 2, 2, channels])
    x = tf.transpose(x, [2, 4, 0, 1, 3, 5])
    return tf.reshape(x, [-1, height // 2, width // 2, channels])


@linear
def merge_phases(x: tf.Tensor) -> tf.Tensor:
    """What `phases` took apart, at even sizes."""
    height, width = (x.shape[axis] or tf.shape(x)[axis] for axis in (1, 2))
    channels = x.shape[3]
    x = tf.reshape(x, [2, 2, -1, height, width, channels])
    x = tf.transpose(x, [2, 3, 0, 4, 1, 5])
    return tf.reshape(x, [-1, 2 * height, 2 * width, channels])
