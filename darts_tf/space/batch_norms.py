"""The BatchNorms of a block by name."""

from collections.abc import Mapping

import tensorflow as tf

from darts_tf.space import functional
from darts_tf.space.dual import Number
from darts_tf.space.primitives import Normalise


class BatchNorms:
    """The BatchNorms of one block during one call; in training it collects the batch statistics."""

    def __init__(
        self,
        weights: Mapping[str, Number],
        running: Mapping[str, tuple[tf.Tensor, tf.Tensor]] | None = None,
    ):
        """Makes them of the block's weights and running statistics.

        Args:
            weights: "<norm>/gamma" and "<norm>/beta" where the block has scales and shifts.
            running: Mean and variance by name; None to use the statistics of the batch (training).
        """
        self._weights = weights
        self._running = running
        self.batch: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}

    def __call__(self, name: str, x: Number, scale: tf.Tensor | None = None) -> Number:
        """Applies the BatchNorm of a name.

        Args:
            name: One of the block's BatchNorms.
            x: (batch, height, width, channels).
            scale: A scalar that the outcome is multiplied with, for BatchNorms without a scale of
                their own.
        """
        gamma, beta = self._weights.get(f"{name}/gamma"), self._weights.get(f"{name}/beta")
        if scale is not None:
            gamma = tf.fill([x.shape[-1]], scale)
        if self._running is not None:
            return functional.batch_norm_inference(x, *self._running[name], gamma, beta)
        y, *self.batch[name] = functional.batch_norm(x, gamma, beta)
        return y

    def within(self, prefix: str, scales: Mapping[str, tf.Tensor]) -> Normalise:
        """The BatchNorms whose names begin with a prefix, by the rest of their names.

        Args:
            prefix: The prefix, without the slash.
            scales: Scales by the rest of the name.
        """
        return lambda name, x: self(f"{prefix}/{name}", x, scales.get(name))
