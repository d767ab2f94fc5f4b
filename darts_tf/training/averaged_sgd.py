"""AveragedSGD: gradient descent that, once told to, also averages its iterates."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from darts_tf.training.optimizers import SGD


@keras.saving.register_keras_serializable(package="darts_tf")
class AveragedSGD(SGD):
    """SGD without momentum; from `start_averaging` on, with the average of the iterates beside.

        g <- g * min(1, clip_norm / (|g| + 1e-6)) + l2 * w
        w <- w - learning_rate * g
        a <- the mean of the iterates w since the start

    Training continues from w; `averaged` puts a in its place for an evaluation.

    As published by default, which is PyTorch's ASGD with its two oddities: the average of n >= 2
    iterates leaves out the first, and a step uses the learning rate that was set for the step
    before it (the first one the base rate), so that a rate scaled to a window acts one window
    late. `published=False` averages all iterates and is never late.

    Args:
        learning_rate: Base learning rate (20 as published, scaled to each window).
        l2: L2 weight decay, added to the clipped gradient.
        clip_norm: Largest global norm of the gradient; None for no clipping.
        published: Whether the oddities are kept.

    Raises:
        InputError: A value is out of its range.

    Reference:
        Polyak, Juditsky: Acceleration of Stochastic Approximation by Averaging (1992); the trigger
        and the window-wise rate are AWD-LSTM's (Merity, Keskar, Socher 2018).
    """

    def __init__(
        self,
        learning_rate: float = 20.0,
        l2: float = 8e-7,
        clip_norm: float | None = 0.25,
        published: bool = True,
        name: str = "averaged_sgd",
    ):
        super().__init__(learning_rate, 0.0, l2, clip_norm, name)
        self.published = bool(published)
        # Of a schedule the first; a variable of a strategy is no number for float().
        self.base_rate = float(keras.ops.convert_to_numpy(self.learning_rate))

    def build(self, variables):
        """Makes the averages and the counters."""
        if self.built:
            return
        super().build(variables)
        self.averages = self.slots(variables, "average")
        # -1 before the start, then the number of averaged steps.
        self.averaged_steps = self.add_variable(
            shape=(), initializer=keras.initializers.Constant(-1), dtype="int32", name="steps"
        )
        self.rate_before = self.add_variable(shape=(), dtype="float32", name="rate_before")

    @property
    def is_averaging(self) -> bool:
        """Whether averaging has started."""
        return int(self.averaged_steps.numpy()) >= 0

    def start_averaging(self) -> None:
        """Averages from the next step on."""
        self.averaged_steps.assign(0)
        self.rate_before.assign(self.base_rate)

    def apply(self, grads, trainable_variables=None):
        """Updates weights and averages, then the counters."""
        iterations = super().apply(grads, trainable_variables)
        averaging = tf.cast(tf.convert_to_tensor(self.averaged_steps) >= 0, tf.int32)
        self.averaged_steps.assign_add(averaging)
        self.rate_before.assign(tf.cast(self.learning_rate, tf.float32))
        return iterations

    def update_step(self, gradient, variable, learning_rate):
        """Updates one weight and its average."""
        average = self.averages[self._get_variable_index(variable)]
        n = tf.convert_to_tensor(self.averaged_steps)
        rate = tf.cast(learning_rate, variable.dtype)
        if self.published:
            rate = tf.where(n >= 0, tf.cast(self.rate_before, variable.dtype), rate)
        g = gradient + tf.constant(self.l2, variable.dtype) * variable
        w = variable - rate * g
        # The iterate's share in the mean: 1 of the first (and, as published, of the second).
        counted = n if self.published else n + 1
        share = 1 / tf.cast(tf.maximum(counted, 1), variable.dtype)
        self.assign(average, average + share * (w - average))
        self.assign(variable, w)

    @contextlib.contextmanager
    def averaged(self, variables: list[keras.Variable]) -> Iterator[None]:
        """Within it the weights are their averages, if averaging has started.

        Args:
            variables: The weights that the optimizer was built with.
        """
        if not self.is_averaging:
            yield
            return
        self._swap(variables)
        try:
            yield
        finally:
            self._swap(variables)

    def _swap(self, variables):
        for variable, average in zip(variables, self.averages, strict=True):
            value = tf.identity(variable.value)
            variable.assign(average)
            average.assign(value)

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        del config["momentum"]
        if not isinstance(config["learning_rate"], dict):  # which a window may have scaled
            config["learning_rate"] = self.base_rate
        return {**config, "published": self.published}
