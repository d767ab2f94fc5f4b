"""3x3 pooling as published, with fast first and right second derivatives on every device."""

import functools

import tensorflow as tf

from darts_tf.space.convolution import pad
from darts_tf.space.dual import Dual, Number, linear
from darts_tf.space.tracing import is_exporting

SIZE = 3


def max_pool(x: Number, stride: int) -> Number:
    """3x3 max pooling with padding 1, in which the padding never wins.

    Args:
        x: (batch, height, width, channels).
        stride: 1 or 2.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), channels).
    """
    window = {"ksize": [1, SIZE, SIZE, 1], "strides": [1, stride, stride, 1]}
    window["padding"] = "SAME" if stride == 1 else "VALID"
    if isinstance(x, Dual):
        return Dual(max_pool(x.value, stride), _maximum_along(x, window))
    if stride == 2:
        x = pad(x, 1, 1, x.dtype.min)
    if is_exporting():
        return tf.raw_ops.MaxPool(input=x, **window)
    return _max_pool(x, window)


def _max_pool(x: tf.Tensor, window: dict) -> tf.Tensor:
    """Stock max pooling; its two derivatives are called so that they are fast and right.

    First: the stock CPU kernel searches every window again, 30 times slower than the pooling. The
    fast one is chosen only where pooling and gradient stand in one graph, so the gradient pools
    anew.

    Second: inside `tf.function` on a CPU the stock kernel takes its input's buffer as its output
    when the shapes agree, as they do at stride 1, and returns zeros.
    """

    @tf.custom_gradient
    def pool(x):
        # An identity, because it belongs to the graph of the gradient: a gradient of it could not
        # reach a tensor of this one.
        return tf.raw_ops.MaxPool(input=x, **window), lambda dy: backward(dy, tf.identity(x))

    @tf.custom_gradient
    def backward(dy, x):
        return _spread(dy, x, window), lambda c: (_gather(c, x, window), None)

    return pool(x)


def _spread(dy: tf.Tensor, x: tf.Tensor, window: dict) -> tf.Tensor:
    """Each window's value, added at its maximum."""
    y = tf.raw_ops.MaxPool(input=x, **window)
    return tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, **window)


def _gather(values: tf.Tensor, x: tf.Tensor, window: dict) -> tf.Tensor:
    """The value at each window's maximum: the transpose of `_spread`."""
    if window["padding"] == "SAME":
        return _at_maximum(tf.stop_gradient(x), tf.stop_gradient(values))
    y = tf.raw_ops.MaxPool(input=x, **window)
    return tf.raw_ops.MaxPoolGradGrad(orig_input=x, orig_output=y, grad=values, **window)


def _maximum_along(x: Dual, window: dict) -> tf.Tensor | None:
    """The derivative of the pooled tensor: that of each window's maximum."""

    @tf.custom_gradient
    def gather(values, x):
        return _gather(values, x, window), lambda c: (_spread(c, x, window), None)

    if x.tangent is None:
        return None
    if window["padding"] == "SAME":
        return gather(x.tangent, x.value)
    return gather(pad(x.tangent, 1, 1), pad(x.value, 1, 1, x.dtype.min))


# Compiled it is a few passes over memory; one by one the operations would be sixty.
@functools.partial(tf.function, jit_compile=True, autograph=False)
def _at_maximum(x: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """The value at the maximum of x, for each 3x3 window at stride 1.

    First along rows, then along columns; of equal ones the first in reading order, as the kernels
    choose. (`tf.nn.max_pool_with_argmax` takes several times longer on a CPU.)
    """
    for axis in (2, 1):
        edges = [[0, 0]] * 4
        edges[axis] = [1, 1]
        around, filled = tf.pad(x, edges, constant_values=x.dtype.min), tf.pad(values, edges)
        size = x.shape[axis] or tf.shape(x)[axis]
        for offset in range(SIZE):
            begin = [0] * 4
            begin[axis] = offset
            extent = tf.concat([tf.shape(x)[:axis], [size], tf.shape(x)[axis + 1 :]], 0)
            there, value = (tf.slice(t, begin, extent) for t in (around, filled))
            if offset == 0:
                x, values = there, value
                continue
            values = tf.where(x >= there, values, value)
            x = tf.maximum(x, there)
    return values


@linear
def average_pool(x: tf.Tensor, stride: int) -> tf.Tensor:
    """3x3 average pooling with padding 1, in which the padding is not counted.

    Args:
        x: (batch, height, width, channels).
        stride: 1 or 2.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), channels).
    """
    if stride == 1:
        return tf.nn.avg_pool2d(x, SIZE, 1, "SAME")
    total = tf.nn.avg_pool2d(pad(x, 1, 1), SIZE, stride, "VALID")
    counted = tf.nn.avg_pool2d(pad(tf.ones_like(x[:1, :, :, :1]), 1, 1), SIZE, stride, "VALID")
    return total / counted
