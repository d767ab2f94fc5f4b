"""The virtual step of w that an optimizer would take (paper, equation 6), and w as one vector."""

import keras
import tensorflow as tf

from darts_tf.search.bilevel import VirtualStep


def next_step(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], clip: bool
) -> VirtualStep:
    """The step that an optimizer of the weights would take next.

    Args:
        optimizer: Its step is known of `darts_tf.SGD` and of `keras.optimizers.SGD` without
            Nesterov momentum; for all others it is plain gradient descent at their learning rate.
        variables: The weights.
        clip: Whether the gradient is clipped to the optimizer's `clip_norm`, where it has one.
    """
    xi = tf.cast(tf.convert_to_tensor(optimizer.learning_rate), variables[0].dtype)
    if hasattr(optimizer, "momentum_buffers"):
        buffer = 0.0
        if optimizer.momentum:
            buffer = flatten([tf.convert_to_tensor(b) for b in optimizer.momentum_buffers])
        clip_norm = optimizer.clip_norm if clip else None
        return VirtualStep(xi, optimizer.momentum, buffer, optimizer.l2, clip_norm)
    if isinstance(optimizer, keras.optimizers.SGD) and not optimizer.nesterov:
        # Its decay w <- w - xi * lambda * w comes to the same here as lambda * w in g.
        decay = optimizer.weight_decay or 0.0
        if not optimizer.momentum:
            return VirtualStep(xi, weight_decay=decay)
        # Keras keeps the velocity m = -xi * b: mu * b = -mu * m / xi; 0 at learning rate 0.
        velocity = flatten([tf.convert_to_tensor(m) for m in optimizer.momentums])
        buffer = tf.math.divide_no_nan(-velocity, xi)
        return VirtualStep(xi, optimizer.momentum, buffer, decay)
    return VirtualStep(xi)


def flatten(tensors: list[tf.Tensor]) -> tf.Tensor:
    """One vector of all tensors: the w of the paper, so that its equations are one line each."""
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)


def unflatten(vector: tf.Tensor, like: list[keras.Variable]) -> list[tf.Tensor]:
    """The tensors of a vector, shaped like the variables."""
    pieces = tf.split(vector, [int(tf.TensorShape(v.shape).num_elements()) for v in like])
    return [tf.reshape(piece, v.shape) for piece, v in zip(pieces, like, strict=True)]
