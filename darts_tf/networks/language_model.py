"""LanguageModel: what the two language models have in common.

    embedding -> (embedding dropout) -> locked dropout -> cell over time -> locked dropout
        -> decoder, whose weights are the embedding's, with a bias of its own -> logits

(Paper, section 3.1.2 and appendix A.1.2; the regularisation is that of AWD-LSTM, without its
DropConnect.)
"""

import dataclasses
import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from darts_tf import replicas
from darts_tf.errors import InputError, real_number, whole_number
from darts_tf.space.recurrent_functions import INITIAL_RANGE
from darts_tf.space.tracing import compute_dtype

MASKS = ("embedding", "input", "cell_input", "cell_hidden", "output")
"""The dropout masks, each with random numbers of its own."""


@dataclasses.dataclass(frozen=True)
class Regularization:
    """What keeps a language model from overfitting; by default as published for Penn Treebank.

    Attributes:
        dropout: Share of the cell's outputs dropped before the decoder, the same in a window.
        dropouth: Of the states inside the cell (m_h).
        dropoutx: Of the cell's inputs, inside it (m_x).
        dropouti: Of the embedded words, before the cell.
        dropoute: Of the words of the vocabulary, dropped from the embedding, not the decoder.
        alpha: AR: penalty alpha mean(o^2) on the dropped outputs o.
        beta: TAR, temporal activation regularisation: penalty beta mean((h_t+1 - h_t)^2) on the
            outputs h before dropout.

    Raises:
        InputError: A share is not in [0, 1), or a penalty negative.
    """

    dropout: float = 0.75
    dropouth: float = 0.25
    dropoutx: float = 0.75
    dropouti: float = 0.2
    dropoute: float = 0.0
    alpha: float = 0.0
    beta: float = 1e-3

    def __post_init__(self):
        """Checks the ranges."""
        for field in dataclasses.fields(self):
            value = real_number(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            largest = 1 if field.name.startswith("dropout") else math.inf
            if not 0 <= value < largest:
                wanted = "in [0, 1)" if largest == 1 else "0 or more, and finite"
                raise InputError(f"{field.name} must be {wanted}. Received: {value}.")


class Forward(NamedTuple):
    """What a language model computes of a window.

    Attributes:
        logits: (batch, time, vocabulary), in the type of the weights, as all three are.
        hidden: (batch, state width), the hidden state after the window.
        penalty: AR + TAR, a scalar; 0 in evaluation.
    """

    logits: tf.Tensor
    hidden: tf.Tensor
    penalty: tf.Tensor


class LanguageModel(keras.Model):
    """Base class of the language models; see the subclasses for the arguments.

    The hidden state is carried from window to window in variables: `hidden` from one training
    window to the next, `evaluation_hidden` between those of evaluation. `reset_states` sets them to
    zero. No gradient flows back into an earlier window.

    Input: word numbers (batch, time), the batch being `batch_size` in training and
    `evaluation_batch_size` otherwise. Output: logits (batch, time, vocabulary) of the next words.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        batch_size: int = 64,
        evaluation_batch_size: int = 10,
        regularization: Regularization | dict | None = None,
        seed: int = 0,
        redraw_masks: bool = False,
        name: str | None = None,
    ):
        super().__init__(name=name, autocast=False)
        vocabulary_size = whole_number("vocabulary_size", vocabulary_size)
        width = whole_number("width", width)
        batch_size = whole_number("batch_size", batch_size)
        evaluation_batch_size = whole_number("evaluation_batch_size", evaluation_batch_size)
        seed = whole_number("seed", seed, 0)
        if isinstance(regularization, dict):
            regularization = Regularization(**regularization)
        self.vocabulary_size, self.width = vocabulary_size, width
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.regularization = regularization or Regularization()
        self.seed, self.redraw_masks = seed, redraw_masks
        self.embedding = self.add_weight(
            name="embedding",
            shape=(vocabulary_size, width),
            initializer=keras.initializers.RandomUniform(-INITIAL_RANGE, INITIAL_RANGE),
            autocast=False,
        )
        self.decoder_bias = self.add_weight(
            name="decoder_bias", shape=(vocabulary_size,), initializer="zeros", autocast=False
        )
        self.hidden, self.evaluation_hidden = (
            self.add_weight(
                name=kind,
                shape=(rows, self.state_width),
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            for kind, rows in (
                ("hidden", batch_size),
                ("evaluation_hidden", evaluation_batch_size),
            )
        )
        # Every step draws its masks from (seed, number of the step): all passes of one step have
        # the same, and a resumed run has those that it would have had.
        self.steps_done = self.add_weight(
            name="steps_done", shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    @property
    def state_width(self) -> int:
        """Width of the carried hidden state: that of the outputs, unless a cell keeps more."""
        return self.width

    def unroll(self, inputs, hidden, input_mask, hidden_mask, training, lengths=None):
        """Runs the cell: (time, batch, width) to an `Unrolled`."""
        raise TypeError(f"{type(self).__name__} must define unroll(), the passage of a window.")

    def reset_states(self) -> None:
        """Sets the carried hidden states to zero."""
        for variable in (self.hidden, self.evaluation_hidden):
            variable.assign(tf.zeros_like(variable))

    def call(self, x, training=False):
        """The logits of a window; carries the hidden state on."""
        if training:
            result = self.train_window(x)
            self.add_loss(result.penalty)
            return result.logits
        self._check(x, self.evaluation_hidden)
        rows = replicas.rows(tf.shape(x)[0])
        result = self.forward(x, rows.of(tf.convert_to_tensor(self.evaluation_hidden)))
        self.evaluation_hidden.assign(rows.whole(result.hidden))
        return result.logits

    def train_window(self, x: tf.Tensor) -> Forward:
        """What a training window gives; carries the hidden state on and counts the step.

        Args:
            x: Word numbers, (`batch_size`, time).
        """
        self._check(x, self.hidden)
        rows = replicas.rows(tf.shape(x)[0])
        hidden = rows.of(tf.convert_to_tensor(self.hidden))
        result = self.forward(x, hidden, training=True)
        self.hidden.assign(rows.whole(result.hidden))
        with tf.control_dependencies([x]):  # no step is counted where the data has ended
            self.steps_done.assign_add(1)
        return result

    def forward(
        self,
        tokens: tf.Tensor,
        hidden: tf.Tensor,
        training: bool = False,
        lengths: tf.Tensor | None = None,
    ) -> Forward:
        """Logits, next hidden state and penalty of a window; carries nothing.

        Args:
            tokens: Word numbers, (batch, time), any integer type.
            hidden: (batch, state width), the hidden state before the window.
            training: Whether dropout and penalties are on.
            lengths: (batch,), the number of words of each row, after which its hidden state stays
                as it is; None for all. Of a derived cell only.
        """
        rates = self.regularization
        # Products and the cell in the compute type; logits, state and penalty in the weights'.
        dtype, wide = compute_dtype(self), self.variable_dtype
        embedding, hidden = tf.cast(self.embedding, dtype), tf.cast(hidden, dtype)
        batch = tf.shape(tokens)[0]
        masks = dict.fromkeys(MASKS)
        if training:
            # Drawn for all rows of the global batch, of which a replica takes its own.
            rows = replicas.rows(batch)
            like_state = [rows.all, self.width]
            masks = {
                name: self._mask(name, shape, rate)
                for name, shape, rate in (
                    ("embedding", [self.vocabulary_size, 1], rates.dropoute),
                    ("input", like_state, rates.dropouti),
                    ("cell_input", like_state, rates.dropoutx),
                    ("cell_hidden", like_state, rates.dropouth),
                    ("output", like_state, rates.dropout),
                )
            }
            masks = {
                name: mask if mask is None or name == "embedding" else rows.of(mask)
                for name, mask in masks.items()
            }
        times = tf.transpose(tokens)  # (time, batch)
        x = tf.gather(embedding, times)  # (time, batch, width)
        if masks["embedding"] is not None:
            x *= tf.gather(masks["embedding"], times)
        # Two masks on the same tensor, of different rates and draws.
        input_mask = _product(masks["input"], masks["cell_input"])
        unrolled = self.unroll(x, hidden, input_mask, masks["cell_hidden"], training, lengths)
        outputs = unrolled.outputs
        dropped = outputs if masks["output"] is None else outputs * masks["output"]
        # (time, batch, width) -> (batch, time, width): far smaller than the logits.
        by_row = tf.reshape(tf.transpose(dropped, [1, 0, 2]), [-1, self.width])
        logits = tf.cast(tf.matmul(by_row, embedding, transpose_b=True), wide) + self.decoder_bias
        logits = tf.reshape(logits, [batch, -1, self.vocabulary_size])
        logits = tf.ensure_shape(logits, [*tokens.shape, self.vocabulary_size])
        penalty = tf.zeros([], logits.dtype)
        if training and rates.alpha:
            penalty += rates.alpha * tf.reduce_mean(tf.square(tf.cast(dropped, wide)))
        if training and rates.beta:
            outputs = tf.cast(outputs, wide)
            change = tf.square(outputs[1:] - outputs[:-1])
            count = tf.cast(tf.size(change), change.dtype)  # 0 of a single step
            penalty += rates.beta * tf.math.divide_no_nan(tf.reduce_sum(change), count)
        return Forward(logits, tf.cast(unrolled.last, wide), penalty)

    returns_logits = True

    def count_weights(self) -> int:
        """Number of trained values; the tied matrix counts once."""
        return int(sum(math.prod(v.shape) for v in self.trainable_variables))

    def compute_output_shape(self, input_shape):
        """(batch, time, vocabulary)."""
        return (*input_shape, self.vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "vocabulary_size": self.vocabulary_size,
            "width": self.width,
            "batch_size": self.batch_size,
            "evaluation_batch_size": self.evaluation_batch_size,
            "regularization": dataclasses.asdict(self.regularization),
            "seed": self.seed,
            "name": self.name,
        }

    def _mask(self, name: str, shape: list, rate: float) -> tf.Tensor | None:
        """0 with probability `rate`, else 1 / (1 - rate); None where nothing is dropped."""
        if not rate:
            return None
        seed = tf.stack([tf.constant(self.seed, tf.int32), tf.convert_to_tensor(self.steps_done)])
        seed = tf.random.experimental.stateless_fold_in(seed, MASKS.index(name))
        if self.redraw_masks:
            # As the authors' code: every pass of a step draws anew. The passes are told apart by
            # their weights, so that the draw is repeatable.
            values = tf.cast(tf.reduce_sum(self._told_apart_by()), tf.float32)
            seed = tf.random.experimental.stateless_fold_in(seed, tf.bitcast(values, tf.int32))
        dtype = compute_dtype(self)
        # One algorithm on all devices, and one type, so that float64 checks see the same masks.
        drawn = tf.random.stateless_uniform(shape, seed, dtype=tf.float32, alg="philox")
        return tf.cast(drawn >= rate, dtype) / tf.constant(1 - rate, dtype)

    def _told_apart_by(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.decoder_bias)

    def _check(self, x, carried) -> None:
        if len(x.shape) != 2 or x.shape[0] not in (None, carried.shape[0]):
            raise InputError(
                f"A window must have shape (batch, time) with a batch of {carried.shape[0]}, the "
                f"rows of the carried hidden state {carried.name}. Received shape {tuple(x.shape)}."
            )


def _product(one: tf.Tensor | None, other: tf.Tensor | None) -> tf.Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one * other
