"""BatchNorm as published: the fused kernels, with right second derivatives."""

import functools

import tensorflow as tf

from darts_tf.collective import in_gradient, of_each_replica, sum_over_replicas
from darts_tf.space.dual import Dual, Number, bilinear, is_dual, linear, symmetric, total
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
    if is_dual(x, gamma, beta):
        x = x if isinstance(x, Dual) else Dual(x, None)
        return _along(x, gamma, beta), None, None
    # Statistics stay in float32 at half precision.
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    gamma = tf.ones([x.shape[-1]], dtype) if gamma is None else tf.cast(gamma, dtype)
    beta = tf.zeros([x.shape[-1]], dtype) if beta is None else tf.cast(beta, dtype)
    if _is_fused(x):
        return _fused(x, gamma, beta)[:3] if replicas() == 1 else _over_replicas(x, gamma, beta)
    return _plain(x, gamma, beta)


def _plain(x, gamma, beta):
    """By operations whose derivatives are right to any order, over all replicas."""
    dtype = gamma.dtype
    wide = tf.cast(x, dtype)
    mean, variance, count = _moments(wide)
    y = (wide - mean) * tf.math.rsqrt(variance + EPSILON) * gamma + beta
    return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1, 1)


def _is_fused(x: Number) -> bool:
    """Whether the fused kernel serves: it takes a quarter of the time, and has no float64."""
    return x.dtype != tf.float64


def _fused(x, gamma, beta, moments=None):
    """The fused kernel, by given mean and biased variance or those of x."""
    mean, variance = ([], []) if moments is None else moments
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=EPSILON,
        is_training=moments is None,
    )


def _fused_gradient(dy, x, gamma, reserved, moments=None):
    """(of x, of gamma, of beta) of `_fused`; of constant moments, or through those of x.

    Args:
        reserved: What the kernel of x's own moments left for it.
    """
    first, second, third = reserved if moments is None else (*moments, moments[1])
    return tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=gamma,
        reserve_space_1=first,
        reserve_space_2=second,
        reserve_space_3=third,
        epsilon=EPSILON,
        is_training=moments is None,
    )[:3]


def _over_replicas(x, gamma, beta):
    """The same over all replicas by the fused kernels, with one sum forward and one back.

    With n, mean and r = 1 / sqrt(variance + epsilon) of the global batch, x^ = (x - mean) r, and
    sums over it:

        dx = gamma r (dy - sum(dy) / n - x^ sum(dy x^) / n)
    """
    again = in_gradient()

    @tf.custom_gradient
    def normalise(x, gamma, beta):
        own = _fused(x, tf.ones_like(gamma), tf.zeros_like(beta))
        count = tf.cast(tf.size(x) // tf.size(gamma), gamma.dtype)
        biased = own.batch_variance * (count - 1) / count
        mean, variance, count = _together(own.batch_mean, biased, count)
        y = _fused(x, gamma, beta, (mean, variance)).y

        def backward(dy, *of_statistics):  # of which nobody takes a gradient
            with again():
                given = map(tf.identity, (x, gamma, mean, variance, count))
                return _gradient_over_replicas(dy, *given)

        return (y, mean, variance * count / (count - 1)), backward

    return normalise(x, gamma, beta)


def _gradient_over_replicas(dy, x, gamma, mean, variance, count):
    again = in_gradient()

    @tf.custom_gradient
    def gradient(dy, x, gamma):
        unsummed, of_gamma, of_beta = _fused_gradient(dy, x, gamma, None, (mean, variance))
        sums = sum_over_replicas(tf.stack([of_gamma, of_beta])) / count
        r = tf.math.rsqrt(variance + EPSILON)
        slope = -gamma * r * r * sums[0]
        of_x = _combination(
            (unsummed, x), (tf.ones_like(gamma), slope), -gamma * r * sums[1] - slope * mean
        )

        def backward(*of_gradients):
            """By nested tapes over the plain operations."""
            with again(), tf.GradientTape() as outer:
                given = [tf.identity(t) for t in (dy, x, gamma)]
                outer.watch(given)
                beta = tf.zeros_like(gamma)
                with tf.GradientTape() as inner:
                    inner.watch([given[1:], beta])
                    y = _plain(*given[1:], beta)[0]
                found = inner.gradient(y, [*given[1:], beta], output_gradients=given[0])
            return outer.gradient(
                found, given, output_gradients=of_gradients, unconnected_gradients="zero"
            )

        return (of_x, of_gamma, of_beta), backward

    return gradient(dy, x, gamma)


def _moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean and biased variance over the global batch, and its number of pixels.

    Written out because `tf.nn.moments` stops the gradient at the mean: harmless at first order,
    wrong at second.
    """
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
    mean = tf.reduce_sum(x, [0, 1, 2]) / count
    variance = tf.reduce_sum(tf.math.squared_difference(x, mean), [0, 1, 2]) / count
    return _together(mean, variance, count)


def _together(mean, variance, count):
    """The moments of the parts of all replicas, put together.

        var = sum_r n_r / n (var_r + (mean_r - mean)^2)

    From sums of x and x^2, replicas would agree with one only to some 1e-11 after ten steps in
    double precision.
    """
    if replicas() == 1:
        return mean, variance, count
    parts = of_each_replica(tf.concat([[count], mean, variance], 0))
    counts, means, variances = tf.split(parts, [1, mean.shape[0], mean.shape[0]], 1)
    count = tf.reduce_sum(counts)
    share = counts / count
    mean = tf.reduce_sum(share * means, 0)
    variance = tf.reduce_sum(share * (variances + tf.math.squared_difference(means, mean)), 0)
    return mean, variance, count


def _along(x: Dual, gamma: Number | None, beta: Number | None) -> Dual:
    """BatchNorm of a `Dual`: y' = J x', with a Jacobian J = gamma r P that is symmetric."""
    if is_dual(gamma, beta):
        normalised = linear(tf.cast)(_along(x, None, None), gamma.dtype)
        shift = linear(tf.broadcast_to)(beta, tf.shape(normalised.value))
        return linear(tf.cast)(total([bilinear(tf.multiply)(normalised, gamma), shift]), x.dtype)
    fused = _is_fused(x) and replicas() == 1
    if x.tangent is None or not fused or beta is not None:
        return symmetric(lambda x: batch_norm(x, gamma, beta)[0], x)
    gamma = tf.ones([x.shape[-1]]) if gamma is None else tf.cast(gamma, tf.float32)
    fused = _fused(x.value, gamma, tf.zeros_like(gamma))
    return Dual(fused.y, _jacobian_product(x.tangent, x.value, gamma, *fused[1:6]))


@tf.custom_gradient
def _jacobian_product(v, x, gamma, mean, variance, *reserved):
    """gamma r P v by the fused kernel of the backward pass, for J is symmetric.

    With n = batch * height * width, r = 1 / sqrt(biased variance + epsilon), x^ = (x - mean) r and
    P v = v - mean(v) - x^ mean(v x^). For a cotangent c:

        of v       gamma r P c
        of gamma   sum(c r P v)
        of x       - r / n (sum(c gamma r P v) x^ + sum(v x^) gamma r P c + sum(c x^) gamma r P v)

    The stock second derivative of the kernel is right too, but takes some thirty passes over memory
    where these are ten.
    """
    mean, variance, *reserved = map(tf.stop_gradient, (mean, variance, *reserved))

    def kernel(v):  # gamma r P v, sum(v x^), sum(v)
        return _fused_gradient(v, x, gamma, reserved)

    def backward(c):
        n = tf.cast(tf.size(x) // tf.size(gamma), gamma.dtype)
        biased = variance * (n - 1) / n
        factor = -tf.math.rsqrt(biased + EPSILON) / n
        of_v, c_along, _ = kernel(c)
        wide = (tf.cast(t, gamma.dtype) for t in (c, product))
        overlap = tf.reduce_sum(tf.multiply(*wide), [0, 1, 2])
        slope = factor * overlap * tf.math.rsqrt(biased + EPSILON)  # x^ = (x - mean) r
        of_x = _combination(
            (x, of_v, product), (slope, factor * v_along, factor * c_along), -slope * mean
        )
        return (of_v, of_x, tf.math.divide_no_nan(overlap, gamma), *[None] * (2 + len(reserved)))

    product, v_along, _ = map(tf.stop_gradient, kernel(v))
    return tf.identity(product), backward


def _combination(tensors, factors, shift) -> tf.Tensor:
    """The sum of tensors times factors, plus a shift: the latter have a number for each channel."""
    return _compiled_combination(*map(tf.stop_gradient, (*tensors, *factors, shift)))


# Compiled it is one pass over memory; one by one the operations would be eight.
@functools.partial(tf.function, jit_compile=True, autograph=False)
def _compiled_combination(*given):
    *given, shift = given
    tensors, factors = given[: len(given) // 2], given[len(given) // 2 :]
    # In the type of the factors, which may be smaller than half precision has numbers.
    terms = (tf.cast(t, f.dtype) * f for t, f in zip(tensors, factors, strict=True))
    total = tf.add_n([*terms, tf.broadcast_to(shift, tf.shape(tensors[0]))])
    return tf.cast(total, tensors[0].dtype)


def batch_norm_inference(
    x: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    gamma: tf.Tensor | None = None,
    beta: tf.Tensor | None = None,
) -> tf.Tensor:
    """Normalises by running statistics, each of shape (channels,), in their type."""
    scale = tf.math.rsqrt(variance + EPSILON)
    scale = scale if gamma is None else scale * tf.cast(gamma, scale.dtype)
    shift = -mean * scale
    shift = shift if beta is None else shift + tf.cast(beta, scale.dtype)
    return tf.cast(tf.cast(x, scale.dtype) * scale + shift, x.dtype)
