"""The tensor functions under every primitive: convolutions, pools, BatchNorm, as published.

Images are (batch, height, width, channels). All of them are pure, so that the search can evaluate a
network at any weights. Each has right second derivatives inside `tf.function`, which the stock
stride-1 max pooling (CPU kernel) and `tf.nn.moments` have not; the exact second order needs them.
In place of a tensor each takes a `Dual`.
"""

import tensorflow as tf

from darts_tf.space.convolution import depthwise, pad, pointwise, separable
from darts_tf.space.dual import bilinear, linear
from darts_tf.space.normalisation import batch_norm, batch_norm_inference
from darts_tf.space.pooling import average_pool, max_pool

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
    "separable",
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
