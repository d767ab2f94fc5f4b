"""The virtual step of w that an optimizer would take (paper, equation 6), and w as one vector."""

import keras
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.search.bilevel import VirtualStep


def check_optimizer(optimizer: keras.optimizers.Optimizer, clip: bool) -> None:
    """Checks that the virtual step can be what the options of an optimizer ask for.

    Args:
        optimizer: Of the weights.
        clip: Whether the virtual step is clipped.

    Raises:
        InputError: Naming the option.
    """
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise InputError(
            "A virtual step is one step on one batch, but the optimizer of the weights has "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}: leave it out, "
            "or search with order='first', which needs no virtual step."
        )
    for name in ("clipnorm", "clipvalue"):
        if clip and getattr(optimizer, name, None):
            raise InputError(
                "clip_virtual_step=True clips by the norm of the gradient, but the optimizer "
                f"of the weights has {name}={getattr(optimizer, name)}: take global_clipnorm=..., "
                "darts_tf.SGD(clip_norm=...), or leave clip_virtual_step out."
            )


def next_step(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], clip: bool
) -> VirtualStep:
    """The step that an optimizer of the weights would take next.

    Args:
        optimizer: Its step is known of `darts_tf.SGD` and of `keras.optimizers.SGD` without
            Nesterov momentum; for all others it is plain gradient descent at their learning rate.
        variables: The weights.
        clip: Whether the gradient is clipped to the optimizer's `clip_norm`, or Keras'
            `global_clipnorm`, where it has one; see `check_optimizer` for the others.
    """
    xi = tf.cast(tf.convert_to_tensor(optimizer.learning_rate), variables[0].dtype)
    if hasattr(optimizer, "momentum_buffers"):
        buffer = 0.0
        if optimizer.momentum:
            buffer = flatten([tf.convert_to_tensor(b) for b in optimizer.momentum_buffers])
        clip_norm = optimizer.clip_norm if clip else None
        return VirtualStep(xi, optimizer.momentum, buffer, optimizer.l2, clip_norm)
    clipping = {"clip_norm": getattr(optimizer, "global_clipnorm", None) if clip else None}
    clipping["clip_epsilon"] = 0.0
    if isinstance(optimizer, keras.optimizers.SGD) and not optimizer.nesterov:
        # Its decay w <- w - xi * lambda * w comes to the same here as lambda * w in g.
        decay = _weight_decay(optimizer, variables)
        if not optimizer.momentum:
            return VirtualStep(xi, weight_decay=decay, **clipping)
        # Keras keeps the velocity m = -xi * b: mu * b = -mu * m / xi; 0 at learning rate 0.
        velocity = flatten([tf.convert_to_tensor(m) for m in optimizer.momentums])
        buffer = tf.math.divide_no_nan(-velocity, xi)
        return VirtualStep(xi, optimizer.momentum, buffer, decay, **clipping)
    return VirtualStep(xi, **clipping)


def _weight_decay(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]):
    """lambda of a Keras optimizer: a number, or a vector where some weights are excluded."""
    decay = optimizer.weight_decay or 0.0
    excluded = [not optimizer._use_weight_decay(v) for v in variables]
    if not decay or not any(excluded):
        return decay
    decays = [0.0 if none else decay for none in excluded]
    return flatten(
        [tf.fill(v.shape, tf.constant(d, v.dtype)) for d, v in zip(decays, variables, strict=True)]
    )


def flatten(tensors: list[tf.Tensor]) -> tf.Tensor:
    """One vector of all tensors: the w of the paper, so that its equations are one line each."""
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)


def unflatten(vector: tf.Tensor, like: list[keras.Variable]) -> list[tf.Tensor]:
    """The tensors of a vector, shaped like the variables."""
    pieces = tf.split(vector, [int(tf.TensorShape(v.shape).num_elements()) for v in like])
    return [tf.reshape(piece, v.shape) for piece, v in zip(pieces, like, strict=True)]
