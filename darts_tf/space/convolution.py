"""Depthwise and 1x1 convolutions, with gradients that keep and compute no more than is wanted.

A function that is kept whole in the graph (see `block`) hands everything that the gradients of its
products might need to the backward pass, also where the gradient of the kernels is not wanted, as
in an alpha step. That is most of a supernet's memory, so the gradients are written out here.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from darts_tf.space.dual import Number, bilinear, is_dual
from darts_tf.space.tracing import is_exporting, is_keeping, on_gpu, wants_gradient_of

PIECE = 3
"""Width of the pieces in which a CPU computes the gradient of a wider depthwise kernel."""


def separable(
    x: Number, depthwise_kernel: Number, pointwise_kernel: Number, stride: int = 1
) -> Number:
    """A depthwise convolution and the 1x1 convolution that follows it.

    What is between them is not kept for the gradient of the 1x1 kernel but computed anew, other
    than within `keeping`.

    Args:
        x: (batch, height, width, channels in).
        depthwise_kernel: (k, k, channels in, 1), k odd.
        pointwise_kernel: (1, 1, channels in, channels out).
        stride: 1 or 2.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), channels out).
    """
    moving = is_dual(x, depthwise_kernel, pointwise_kernel)
    if moving or is_exporting() or is_keeping() or not wants_gradient_of("weights"):
        return pointwise(depthwise(x, depthwise_kernel, stride), pointwise_kernel)
    x, window = _windowed(x, depthwise_kernel, stride)

    @tf.custom_gradient
    def convolve(x, depthwise_kernel, pointwise_kernel):
        def backward(dy):
            # An identity, because it belongs to the graph of the gradient: a gradient of it could
            # not reach a tensor of this one.
            inside = tf.identity(x)
            dh = _product(dy, pointwise_kernel, transpose=True)
            dx = _depthwise_input_gradient(dh, depthwise_kernel, x.shape, window)
            of_depthwise = _depthwise_kernel_gradient(inside, dh, depthwise_kernel.shape, window)
            h = tf.nn.depthwise_conv2d(inside, depthwise_kernel, **window)
            return dx, of_depthwise, _product_kernel_gradient(h, dy)

        h = tf.nn.depthwise_conv2d(x, depthwise_kernel, **window)
        return _product(h, pointwise_kernel), backward

    return convolve(x, depthwise_kernel, pointwise_kernel)


@bilinear
def pointwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with a 1x1 kernel of shape (1, 1, channels in, channels out), as a matrix product.

    On a CPU the product takes half the time of the convolution kernel.

    Args:
        x: (batch, height, width, channels in).
        kernel: The kernel.
    """
    with _constant_kernel("MatMul", "Reshape"):
        return _product(x, kernel)


@bilinear
def depthwise(x: tf.Tensor, kernel: tf.Tensor, stride: int = 1, dilation: int = 1) -> tf.Tensor:
    """Convolves every channel on its own, zero padding dilation * (k - 1) / 2 on every side.

    Args:
        x: (batch, height, width, channels).
        kernel: (k, k, channels, 1), k odd.
        stride: 1 or 2.
        dilation: 1 or 2.
    """
    if dilation == 2 and stride == 1:
        return tf.nn.depthwise_conv2d(x, kernel, [1] * 4, "SAME", dilations=[2, 2])
    if dilation == 2:
        # Stride 2 at dilation 2 reads only even pixels (the padding k - 1 is even), so it is an
        # ordinary convolution of those. TensorFlow's kernel accepts both options together and is
        # silently wrong.
        x, stride = x[:, ::2, ::2], 1
    x, window = _windowed(x, kernel, stride)
    if is_exporting() or not wants_gradient_of("weights"):
        with _constant_kernel("DepthwiseConv2dNative"):
            return tf.nn.depthwise_conv2d(x, kernel, **window)

    @tf.custom_gradient
    def convolve(x, kernel):
        def backward(dy):
            dx = _depthwise_input_gradient(dy, kernel, x.shape, window)
            return dx, _depthwise_kernel_gradient(tf.identity(x), dy, kernel.shape, window)

        return tf.nn.depthwise_conv2d(x, kernel, **window), backward

    return convolve(x, kernel)


@contextlib.contextmanager
def _constant_kernel(*operations: str) -> Iterator[None]:
    """Within it, operations of a graph get gradients that do not keep the input for the kernel's.

    A gradient with respect to the kernel is then None. (`tf.custom_gradient` would not do: a graph
    keeps every argument of it.)
    """
    if tf.executing_eagerly() or is_exporting() or wants_gradient_of("weights"):
        yield
        return
    names = {operation: f"{operation}WithConstantKernel" for operation in operations}
    with tf.compat.v1.get_default_graph().gradient_override_map(names):
        yield


@tf.RegisterGradient("MatMulWithConstantKernel")
def _product_gradient(operation, dy):
    return tf.matmul(dy, operation.inputs[1], transpose_b=True), None


@tf.RegisterGradient("ReshapeWithConstantKernel")
def _reshape_gradient(operation, dy):
    # The stock gradient keeps the input to ask for its shape, where the batch size is not known.
    return tf.reshape(dy, [-1, *operation.inputs[0].shape[1:]]), None


@tf.RegisterGradient("DepthwiseConv2dNativeWithConstantKernel")
def _depthwise_gradient(operation, dy):
    x, kernel = operation.inputs
    window = {name: operation.get_attr(name) for name in ("strides", "padding")}
    window["padding"] = window["padding"].decode()
    return _depthwise_input_gradient(dy, kernel, x.shape, window), None


def pad(x: tf.Tensor, vertical: int, horizontal: int, value: float = 0.0) -> tf.Tensor:
    """Pads symmetrically, as the published networks do; "SAME" does not at stride 2."""
    return tf.pad(
        x, [[0, 0], [vertical, vertical], [horizontal, horizontal], [0, 0]], constant_values=value
    )


def _windowed(x, kernel, stride):
    """The input, padded where "SAME" would pad wrongly, and TensorFlow's strides and padding."""
    if stride == 1:
        return x, {"strides": [1] * 4, "padding": "SAME"}
    radius = kernel.shape[0] // 2
    return pad(x, radius, radius), {"strides": [1, stride, stride, 1], "padding": "VALID"}


def _product(x: tf.Tensor, kernel: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """Every pixel times the kernel's matrix, or its transpose."""
    matrix = tf.reshape(kernel, kernel.shape[2:])
    rows = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), matrix, transpose_b=transpose)
    height, width = (x.shape[axis] or tf.shape(x)[axis] for axis in (1, 2))
    return tf.reshape(rows, [-1, height, width, kernel.shape[2 if transpose else 3]])


def _product_kernel_gradient(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """The gradient of the 1x1 kernel."""
    rows, columns = (tf.reshape(t, [-1, t.shape[-1]]) for t in (x, dy))
    return tf.matmul(rows, columns, transpose_a=True)[None, None]


def _depthwise_input_gradient(dy, kernel, shape, window):
    sizes = tf.concat([tf.shape(dy)[:1], shape[1:]], 0)
    return tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=sizes, filter=kernel, out_backprop=dy, **window
    )


def _depthwise_kernel_gradient(x, dy, shape, window):
    """The gradient of a depthwise kernel, a few columns at a time on a CPU.

    The fast CPU kernel stops at 3 columns: 5 x 5 at once takes two to three times as long as twice
    5 x 3.
    """
    size = shape[0]
    if size <= PIECE or on_gpu() or x.dtype == tf.float64 or window["padding"] != "SAME":
        return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x, filter_sizes=shape, out_backprop=dy, **window
        )

    @tf.custom_gradient
    def in_pieces(x, dy):
        columns, done, radius = [], 0, size // 2
        while done < size:
            first = min(done, size - PIECE)
            # The columns of x, zeros outside, that kernel columns first .. first + 2 meet.
            left, right = first - radius, first + PIECE - 1 - radius
            part = x[:, :, max(left, 0) : min(right, 0) or None]
            sides = [max(-left, 0), max(right, 0)]
            piece = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=tf.pad(part, [[0, 0], [radius, radius], sides, [0, 0]]),
                filter_sizes=[size, PIECE, *shape[2:]],
                out_backprop=dy,
                strides=window["strides"],
                padding="VALID",
            )
            columns.append(piece[:, done - first :])
            done = first + PIECE

        def backward(c):  # of sum(c * gradient), which is linear in x and in dy
            of_x = _depthwise_input_gradient(dy, c, x.shape, window)
            return of_x, tf.nn.depthwise_conv2d(x, c, **window)

        return tf.concat(columns, 1), backward

    return in_pieces(x, dy)
