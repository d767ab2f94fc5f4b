"""LSTMNetwork: the language model with an LSTM in the derived cell's place, to compare with."""

import keras
import tensorflow as tf

from darts_tf.networks.language_model import LanguageModel
from darts_tf.space.recurrent import Unrolled
from darts_tf.space.recurrent_functions import over_time


@keras.saving.register_keras_serializable(package="darts_tf")
class LSTMNetwork(LanguageModel):
    """A language model of an LSTM; all around the cell is as in `RecurrentEvaluationNetwork`.

    The cell is Keras' (Hochreiter, Schmidhuber 1997, with a forget gate), and starts as Keras
    starts it. The carried state is [h, c].

    Args:
        vocabulary_size: Number of words.
        width: Of embedding and hidden state.
        **options: As for `RecurrentEvaluationNetwork`; m_h falls on the last hidden state h.

    Raises:
        InputError: A number is out of its range.
    """

    def __init__(self, vocabulary_size: int, width: int, name: str = "lstm", **options):
        super().__init__(vocabulary_size, width, name=name, **options)
        self.cell = keras.layers.LSTMCell(width)
        self.cell.build((None, width))
        self.built = True

    @property
    def state_width(self) -> int:
        """Twice the width: h and c."""
        return 2 * self.width

    def unroll(self, inputs, hidden, input_mask, hidden_mask, training, lengths=None):
        """Runs the LSTM."""
        masked = inputs if input_mask is None else inputs * input_mask

        def step(x, state):
            h, c = tf.split(state, 2, axis=1)
            h = h if hidden_mask is None else h * hidden_mask
            _, state = self.cell(x, [h, c])
            return (tf.concat(state, 1),)

        states, last, _ = over_time(step, masked, hidden)
        return Unrolled(states[..., : self.width], last)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "redraw_masks": self.redraw_masks}


def count_weights(vocabulary_size: int, width: int) -> int:
    """The number of trained values of an `LSTMNetwork`; the tied matrix counts once.

    V n + V of embedding and decoder, 4 n (n + n + 1) of the cell.
    """
    return vocabulary_size * (width + 1) + 4 * width * (2 * width + 1)


def width_of(vocabulary_size: int, weights: int) -> int:
    """The width of the `LSTMNetwork` whose number of trained values is closest to `weights`."""
    width = 1
    while count_weights(vocabulary_size, width + 1) <= weights:
        width += 1
    return min(width, width + 1, key=lambda n: abs(count_weights(vocabulary_size, n) - weights))
