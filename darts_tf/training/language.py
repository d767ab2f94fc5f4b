"""LanguageModelTraining: trains a language model by truncated back-propagation through time."""

import contextlib
import math

import keras
import tensorflow as tf

from darts_tf import finite, replicas
from darts_tf.loss_scale import (
    attempt,
    checked,
    gradient,
    loss_scale_of,
    steps_done,
    without_scaling,
)
from darts_tf.losses import BatchLoss, token_cross_entropy, update_loss
from darts_tf.networks.language_model import LanguageModel


@keras.saving.register_keras_serializable(package="darts_tf")
class LanguageModelTraining(replicas.ReplicatedModel):
    """Trains a language model on consecutive windows of text.

    Loss of a step: the mean negative log-likelihood of the window's words, plus AR and TAR. The
    hidden state is carried from window to window, the gradient does not.

    `evaluate` starts at hidden state zero and gives the mean negative log-likelihood over all words
    that have one before them; perplexity = exp(loss). (The authors' code divides by one word a row
    more than it has predicted, which makes its loss smaller by the factor (N - 1) / N.) Where the
    optimizer averages its iterates, the averages are evaluated.

    Args:
        network: A `RecurrentEvaluationNetwork`, or another `LanguageModel`.

    Use:
        training = LanguageModelTraining(network)
        training.compile(AveragedSGD())
        training.fit(windows, validation_data=validation_windows, callbacks=[...])
    """

    def __init__(self, network: LanguageModel, name: str = "training"):
        super().__init__(name=name)
        self.network = network
        self._mean_loss = keras.metrics.Mean(name="loss")
        self.first_not_finite = finite.FirstNotFinite()
        self.loss_scale = loss_scale_of(network)
        self.built = True

    def outputs_shape(self, input_shape):
        """The shape of the logits."""
        return self.network.compute_output_shape(input_shape)

    def call(self, x, training=False):
        """The network's logits."""
        return self.network(x, training=training)

    def compile(self, optimizer, **options):
        """Sets what trains.

        Args:
            optimizer: Of the weights.
            **options: As for `keras.Model.compile`.
        """
        optimizer = without_scaling(keras.optimizers.get(optimizer), self.loss_scale, options)
        options.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **options)
        self.batch_loss = self.evaluation_batch_loss = BatchLoss(token_cross_entropy)
        optimizer.build(self.network.trainable_variables)

    def train_step(self, data):
        """One step of the weights."""
        changed = [*self.network.variables, *self.optimizer.variables]
        with attempt(self.loss_scale, changed) as overflows:
            return self._train_step(data, overflows)

    def _train_step(self, data, overflows):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.network.trainable_variables
        step = steps_done(self.optimizer, self.loss_scale)
        began = [tf.convert_to_tensor(v) for v in variables]
        with tf.GradientTape() as tape:
            result = self.network.train_window(x)
            # This replica's share of the global mean; the optimizer sums the shares.
            rows = replicas.rows(tf.shape(x)[0])
            of_words = self.batch_loss(y, result.logits, weight)
            of_words, losses = of_words.share(replicas.total), of_words.losses
            loss = of_words + rows.share(result.penalty)
        gradients = gradient(tape, loss, [v.value for v in variables])
        # The embedding's may be sparse.
        gradients, overflowed = checked([tf.convert_to_tensor(g) for g in gradients])
        overflows.append(overflowed)
        self.optimizer.apply(gradients, variables)
        name = "loss of the training batch"
        checks = [
            finite.Check(name, [losses], rows, advice=finite.LOSS),  # of each row of the window
            finite.Check(name, [result.penalty], advice=finite.LOSS),
        ]
        self.first_not_finite.look(
            step, finite.step_checks(variables, began, checks, gradients), rows
        )
        update_loss(self._mean_loss, of_words, y, rows)
        return {"loss": self._mean_loss.result()}

    def test_step(self, data):
        """Adds a window to the mean."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        logits = self.network(replicas.never_empty(x), training=False)
        self.evaluation_batch_loss(y, logits[: tf.shape(y)[0]], weight).add_to(self._mean_loss)
        return {"loss": self._mean_loss.result()}

    def evaluate(self, *arguments, **options):
        """As `keras.Model.evaluate`, from hidden state zero and with averaged weights."""
        hidden = self.network.evaluation_hidden
        hidden.assign(tf.zeros_like(hidden))
        averaged = getattr(self.optimizer, "averaged", None)
        weights = self.network.trainable_variables
        with averaged(weights) if averaged else contextlib.nullcontext():
            return super().evaluate(*arguments, **options)

    def get_config(self):
        """The constructor's arguments."""
        return {
            "network": keras.saving.serialize_keras_object(self.network),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """The training of `get_config`."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})


def stream_loss(network: LanguageModel, windows: tf.data.Dataset) -> float:
    """The mean negative log-likelihood over consecutive windows, from hidden state zero.

    Args:
        network: The language model, as it is.
        windows: Batches (x, y) of word numbers (batch, time), all with the same batch; any number
            of rows, unlike for `LanguageModelTraining.evaluate`.

    Returns:
        The mean over all words of all y.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def total(x, y, hidden):
        result = network.forward(x, hidden)
        return tf.reduce_sum(token_cross_entropy(y, result.logits)), result.hidden

    hidden, sums, words = None, [], 0
    for x, y in windows:
        if hidden is None:
            hidden = tf.zeros([x.shape[0], network.state_width], network.embedding.dtype)
        loss, hidden = total(x, y, hidden)
        sums.append(float(loss))
        words += math.prod(y.shape)
    return math.fsum(sums) / words
