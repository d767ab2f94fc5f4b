"""Losses of single examples, of which search and training take the mean over the global batch."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf


def label_smoothed_cross_entropy(smoothing: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Cross-entropy against (1 - smoothing) * onehot + smoothing / classes.

    Args:
        smoothing: In [0, 1); 0.1 as published for ImageNet.

    Returns:
        A function of labels (batch,) and logits (batch, classes) to losses (batch,).
    """

    return _LabelSmoothedCrossEntropy(smoothing)


@keras.saving.register_keras_serializable(package="darts_tf")
@dataclasses.dataclass(frozen=True)
class _LabelSmoothedCrossEntropy:
    """The function of `label_smoothed_cross_entropy`, which a saved model names."""

    smoothing: float

    def __call__(self, labels, logits):
        targets = tf.one_hot(tf.reshape(labels, [-1]), logits.shape[-1], dtype=logits.dtype)
        return keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=self.smoothing
        )

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def per_example(loss) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function (y, outputs) -> (batch,) losses, of a Keras loss, its name, or such a function."""
    loss = keras.losses.get(loss)
    return loss.call if isinstance(loss, keras.losses.Loss) else loss


def token_cross_entropy(words: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The negative log-likelihood of each word.

    Args:
        words: (batch, time), integers.
        logits: (batch, time, vocabulary).

    Returns:
        (batch, time).
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=words, logits=logits)
