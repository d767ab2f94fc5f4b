"""BatchNorm as published: the fused kernels, with right second derivatives."""

import tensorflow as tf

from darts_tf.space.dual import Dual, Number, bilinear, symmetric, total
from darts_tf.space.tracing import replicas

EPSILON = 1e-5
"""Added to the variance by every BatchNorm (the published value; Keras' default is 1e-3)."""

MOMENTUM = 0.9
"""Share of the old running statistics kept at an update (Keras' default is 0.99)."""


def batch_norm(
    x: Number, gamma: Number | None = None, beta: Number | None = None
) -> tuple[Number, tf.Tensor | None, tf.Tensor | None]:
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
        biased one.) No statistics for a `Dual`.
    """
    if isinstance(x, Dual):
        return _along(x, gamma, beta), None, None
    # Statistics stay in float32 at half precision.
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    gamma = tf.ones([x.shape[-1]], dtype) if gamma is None else tf.cast(gamma, dtype)
    beta = tf.zeros([x.shape[-1]], dtype) if beta is None else tf.cast(beta, dtype)
    if replicas() == 1 and x.dtype != tf.float64:
        # The fused kernel takes a quarter of the time, and has no float64.
        return _fused(x, gamma, beta)
    wide = tf.cast(x, dtype)
    mean, variance, count = _moments(wide)
    y = (wide - mean) * tf.math.rsqrt(variance + EPSILON) * gamma + beta
    return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1, 1)


def _along(x: Dual, gamma: Number | None, beta: Number | None) -> Dual:
    """BatchNorm of a `Dual`; its Jacobian gamma r P (see `_fused_backward`) is symmetric."""
    if not isinstance(gamma, Dual):
        return symmetric(lambda x: batch_norm(x, gamma, beta)[0], x)
    normalised = symmetric(lambda x: batch_norm(x)[0], x)
    y = bilinear(tf.multiply)(normalised, gamma)
    shift = Dual(tf.broadcast_to(beta.value, tf.shape(y.value)), beta.tangent + tf.zeros_like(y[1]))
    return total([y, shift])


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


@tf.custom_gradient
def _fused(x, gamma, beta):
    y, mean, variance, *reserved = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=EPSILON, is_training=True
    )[:6]
    # Else a gradient of the gradient would go through this kernel too, for nothing.
    mean, variance, *reserved = map(tf.stop_gradient, (mean, variance, *reserved))

    def backward(dy, *_):  # the statistics are for evaluation: nothing is learned from them
        # Identities, because they belong to the graph of the gradient: a gradient of it could not
        # reach tensors of this one.
        return _fused_backward(dy, *map(tf.identity, (x, gamma, mean, variance, *reserved)))

    return (y, mean, variance), backward


@tf.custom_gradient
def _fused_backward(dy, x, gamma, mean, variance, *reserved):
    """Gradients with respect to x, gamma and beta, by the fused kernel.

    The stock second derivative of that kernel is right too, but takes some thirty passes over
    memory. With n = batch * height * width, r = 1 / sqrt(biased variance + epsilon),
    x^ = (x - mean) r and the symmetric projection P v = v - mean(v) - x^ mean(v x^):

        dx = gamma r P dy,    dgamma = sum(dy x^),    dbeta = sum(dy)

    and for cotangents c of dx, c_gamma of dgamma, c_beta of dbeta:

        of dy      gamma r P c + c_gamma x^ + c_beta
        of gamma   sum(c r P dy)
        of x       c_gamma r P dy
                   - gamma r / n (sum(c r P dy) x^ + sum(dy x^) r P c + sum(c x^) r P dy)
    """

    def kernel(v, scale):  # scale r P v, sum(v x^), sum(v)
        means, deviations, rest = reserved
        return tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=v,
            x=x,
            scale=scale,
            reserve_space_1=means,
            reserve_space_2=deviations,
            reserve_space_3=rest,
            epsilon=EPSILON,
            is_training=True,
        )[:3]

    def backward_of_backward(c, c_gamma, c_beta):
        n = tf.cast(tf.size(x) // tf.size(gamma), gamma.dtype)
        r = tf.math.rsqrt(variance * (n - 1) / n + EPSILON)
        ones = tf.ones_like(gamma)
        rp_dy, dy_along, _ = kernel(dy, ones)
        rp_c, c_along, _ = kernel(c, ones)
        overlap = tf.reduce_sum(tf.cast(c * rp_dy, gamma.dtype), [0, 1, 2])
        factor = gamma * r / n
        of_dy = _affine([(gamma, rp_c), (c_gamma * r, x)], c_beta - c_gamma * r * mean)
        of_x = _affine(
            [(c_gamma - factor * c_along, rp_dy), (-factor * dy_along, rp_c)]
            + [(-factor * overlap * r, x)],
            factor * overlap * r * mean,
        )
        return (of_dy, of_x, overlap, *[None] * (2 + len(reserved)))

    return tuple(kernel(dy, gamma)), backward_of_backward


def _affine(terms: list[tuple[tf.Tensor, tf.Tensor]], shift: tf.Tensor) -> tf.Tensor:
    """sum of factor * tensor, plus shift; factors and shift are (channels,)."""
    scaled = [tf.cast(factor, t.dtype) * t for factor, t in terms]
    return tf.add_n(scaled) + tf.cast(shift, scaled[0].dtype)


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
