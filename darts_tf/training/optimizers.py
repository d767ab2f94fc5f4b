"""The optimizers of the published runs, and the learning rate by epoch.

Keras' own differ where it shows: its `weight_decay` is decoupled from the gradient, its momentum
keeps the learning rate inside the velocity (so a schedule acts late), its Adam has another epsilon,
and its clipping is done by each replica on its own.
"""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from darts_tf.errors import InputError, real_number, whole_number


def clip_by_global_norm(
    gradients: list[tf.Tensor], largest: float
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Scales gradients to a largest global L2 norm.

    Args:
        gradients: The gradients.
        largest: Largest norm; they are multiplied by largest / (norm + 1e-6) where that is under 1.

    Returns:
        The scaled gradients and the norm before.
    """
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients]))
    factor = tf.minimum(largest / (norm + 1e-6), 1.0)
    return [g * factor for g in gradients], norm


class _CoupledDecay(keras.optimizers.Optimizer):
    """An optimizer with L2 in the gradient, as `l2`: g <- g + l2 * w before anything else."""

    def __init__(self, learning_rate: float, l2: float, name: str):
        if not callable(learning_rate):  # as a schedule is
            learning_rate = real_number("learning_rate", learning_rate)
        super().__init__(learning_rate=learning_rate, name=name)
        self.l2 = real_number("l2", l2)
        if self.l2 < 0:
            raise InputError(f"l2 must not be negative. Received: l2={l2}.")

    def slots(self, variables: list[keras.Variable], name: str) -> list[keras.Variable]:
        """One variable of zeros like each of the weights."""
        return [
            self.add_variable_from_reference(v, name=name, initializer="zeros") for v in variables
        ]

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()  # a schedule is more than its present value
        return {name: config[name] for name in ("learning_rate", "name")} | {"l2": self.l2}


@keras.saving.register_keras_serializable(package="darts_tf")
class SGD(_CoupledDecay):
    """Stochastic gradient descent as in the published runs.

        g <- g * min(1, clip_norm / (|g| + 1e-6))    |g| the norm over all weights
        g <- g + l2 * w
        b <- momentum * b + g
        w <- w - learning_rate * b

    g is the gradient of the global batch.

    Args:
        learning_rate: Learning rate; a callback such as `keras.callbacks.LearningRateScheduler` may
            change it.
        momentum: Momentum in [0, 1).
        l2: L2 weight decay, added to the clipped gradient.
        clip_norm: Largest global norm of the gradient; None for no clipping.

    Raises:
        InputError: A value is out of its range.
    """

    def __init__(
        self,
        learning_rate: float = 0.025,
        momentum: float = 0.9,
        l2: float = 3e-4,
        clip_norm: float | None = 5.0,
        name: str = "sgd",
    ):
        super().__init__(learning_rate, l2, name)
        self.momentum = real_number("momentum", momentum)
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be in [0, 1). Received: momentum={momentum}.")
        # A variable stays one, so that it can be changed between steps.
        varies = clip_norm is None or isinstance(clip_norm, tf.Variable | keras.Variable)
        self.clip_norm = clip_norm if varies else real_number("clip_norm", clip_norm)
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise InputError(
                f"clip_norm must be positive, or None. Received: clip_norm={clip_norm}."
            )

    def build(self, variables):
        """Makes the momentum buffers."""
        if self.built:
            return
        super().build(variables)
        self.momentum_buffers = self.slots(variables, "momentum")

    def apply(self, grads, trainable_variables=None):
        """Clips by the norm of the global gradient, then updates."""
        grads = list(grads)
        if self.clip_norm is not None:
            context = tf.distribute.get_replica_context()
            replicas = context.num_replicas_in_sync if context else 1
            if replicas > 1:
                grads = context.all_reduce(tf.distribute.ReduceOp.SUM, grads)
            grads, _ = clip_by_global_norm(grads, self.clip_norm)
            # Keras sums over the replicas once more.
            grads = [g / replicas for g in grads] if replicas > 1 else grads
        return super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one weight."""
        buffer = self.momentum_buffers[self._get_variable_index(variable)]
        rate = tf.cast(learning_rate, variable.dtype)
        # Not cast: that would round to float32 on the way to float64.
        momentum, l2 = (tf.constant(n, variable.dtype) for n in (self.momentum, self.l2))
        b = momentum * buffer + gradient + l2 * variable
        self.assign(buffer, b)
        self.assign_sub(variable, rate * b)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "momentum": self.momentum, "clip_norm": self.clip_norm}


@keras.saving.register_keras_serializable(package="darts_tf")
class Adam(_CoupledDecay):
    """Adam with L2 in the gradient, as in the published search of alpha.

        g <- g + l2 * w
        m <- beta_1 * m + (1 - beta_1) * g
        v <- beta_2 * v + (1 - beta_2) * g^2
        w <- w - learning_rate * (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    epsilon stands as in today's PyTorch. The framework of the published runs, and Keras, put it
    before the
    correction of v, which makes it up to 32 times larger in the first steps: `legacy_epsilon=True`.

    Args:
        learning_rate: Learning rate (3e-4 as published).
        beta_1, beta_2: Decay of the moments, in [0, 1) (0.5 and 0.999 as published for the CNN).
        epsilon: Added to the root.
        l2: L2 weight decay (1e-3 as published).
        legacy_epsilon: Whether epsilon is added to sqrt(v) before the correction.

    Raises:
        InputError: A value is out of its range.
    """

    def __init__(
        self,
        learning_rate: float = 3e-4,
        beta_1: float = 0.5,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        l2: float = 1e-3,
        legacy_epsilon: bool = False,
        name: str = "adam",
    ):
        super().__init__(learning_rate, l2, name)
        self.beta_1, self.beta_2 = real_number("beta_1", beta_1), real_number("beta_2", beta_2)
        if not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1):
            raise InputError(
                f"beta_1 and beta_2 must be in [0, 1). Received: {beta_1} and {beta_2}."
            )
        self.epsilon = real_number("epsilon", epsilon)
        self.legacy_epsilon = bool(legacy_epsilon)

    def build(self, variables):
        """Makes the two moments."""
        if self.built:
            return
        super().build(variables)
        self.first_moments = self.slots(variables, "first_moment")
        self.second_moments = self.slots(variables, "second_moment")

    def update_step(self, gradient, variable, learning_rate):
        """Updates one tensor of architecture parameters."""
        index = self._get_variable_index(variable)
        first, second = self.first_moments[index], self.second_moments[index]
        dtype = variable.dtype
        t = tf.cast(self.iterations + 1, dtype)
        rate = tf.cast(learning_rate, dtype)
        # Not cast: that would round to float32 on the way to float64.
        beta_1, beta_2, l2 = (tf.constant(n, dtype) for n in (self.beta_1, self.beta_2, self.l2))
        g = gradient + l2 * variable
        m = beta_1 * first + (1 - beta_1) * g
        v = beta_2 * second + (1 - beta_2) * g * g
        self.assign(first, m)
        self.assign(second, v)
        correction = tf.sqrt(1 - beta_2**t)
        epsilon = self.epsilon / correction if self.legacy_epsilon else self.epsilon
        root = tf.sqrt(v) / correction + epsilon
        self.assign_sub(variable, rate / (1 - beta_1**t) * m / root)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "legacy_epsilon": self.legacy_epsilon,
        }


def cosine_schedule(initial: float, final: float, epochs: int) -> Callable[[int], float]:
    """Learning rate of epoch t: final + (initial - final) (1 + cos(pi t / epochs)) / 2.

    It is set once at the start of an epoch: epoch 0 has `initial`, the last is a little above
        `final`. For `keras.callbacks.LearningRateScheduler`.

    Raises:
        InputError: A rate is no number, or `epochs` no whole number of 1 or more.
    """
    initial, final = real_number("initial", initial), real_number("final", final)
    epochs = whole_number("epochs", epochs)
    return lambda epoch, _=None: (
        final + (initial - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2
    )


def exponential_schedule(initial: float, factor: float) -> Callable[[int], float]:
    """Learning rate of epoch t = 0, 1, ...: initial * factor ** t (ImageNet: 0.1 and 0.97).

    Raises:
        InputError: One of the two is no number.
    """
    initial, factor = real_number("initial", initial), real_number("factor", factor)
    return lambda epoch, _=None: initial * factor**epoch
