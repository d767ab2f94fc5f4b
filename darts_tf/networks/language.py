"""Language models around a recurrent cell: one for the search, one for a derived cell.

(Paper, section 3.1.2 and appendix A.1.2.)
"""

import keras
import tensorflow as tf

from darts_tf.genotype import RNN_PRIMITIVES, RecurrentGenotype, derive_recurrent, num_edges
from darts_tf.networks.language_model import LanguageModel, Regularization
from darts_tf.space.recurrent import RecurrentDerivedCell, RecurrentSearchCell


@keras.saving.register_keras_serializable(package="darts_tf")
class RecurrentSupernet(LanguageModel):
    """The language model of the search; owns the architecture parameters.

    Its penalties (TAR) are losses that Keras' `add_loss` collects: the search adds them in the step
    of the weights only.

    Args:
        vocabulary_size: Number of words.
        width: Of embedding and hidden state (300 as published).
        batch_size: Rows of a training window, and of one for the architecture parameters (256).
        evaluation_batch_size: Rows of an evaluation window (10 as published).
        num_nodes: Nodes of the cell beside node 0 (8 as published).
        primitives: Candidates on every edge, in the order of alpha's columns.
        regularization: Dropouts and penalties; the published ones of the search by default.
        seed: Of the dropout masks.
        redraw_masks: Whether every pass of a step draws its own masks, as the authors' code does;
            otherwise all passes of a step have the same, so that the finite difference measures the
            weights and not the masks.
        jit_compile: Whether XLA compiles what is between the matrix products.

    Raises:
        InputError: A number is out of its range, or a primitive not known.

    Reference:
        Liu, Simonyan, Yang: DARTS (ICLR 2019), section 3.1.2 and appendix A.1.2.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int = 300,
        batch_size: int = 256,
        evaluation_batch_size: int = 10,
        num_nodes: int = 8,
        primitives: tuple[str, ...] = RNN_PRIMITIVES,
        regularization: Regularization | dict | None = None,
        seed: int = 0,
        redraw_masks: bool = False,
        jit_compile: bool = True,
        name: str = "recurrent_supernet",
    ):
        super().__init__(
            vocabulary_size,
            width,
            batch_size,
            evaluation_batch_size,
            regularization,
            seed,
            redraw_masks,
            name,
        )
        self.cell = RecurrentSearchCell(width, num_nodes, tuple(primitives), jit_compile)
        self.primitives = self.cell.primitives
        self.alphas_recurrent = self.add_weight(
            name="alphas_recurrent",
            shape=(num_edges(num_nodes, 1), len(self.primitives)),
            initializer=keras.initializers.RandomNormal(stddev=1e-3),
            trainable=False,
            autocast=False,
        )
        self.validation_hidden = self.add_weight(
            name="validation_hidden",
            shape=(batch_size, width),
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        self.built = True

    @property
    def architecture_parameters(self) -> list[keras.Variable]:
        """[alphas_recurrent], (edges, primitives); 36 x 5 as published."""
        return [self.alphas_recurrent]

    @property
    def network_parameters(self) -> list[keras.Variable]:
        """The weights w: everything that the weight optimizer trains, no alphas."""
        return self.trainable_variables

    @property
    def stream_state(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """The hidden state of the training stream, with that of the validation stream."""
        return [(self.hidden, self.validation_hidden)]

    def reset_states(self) -> None:
        """Sets the carried hidden states, that of the validation stream too, to zero."""
        super().reset_states()
        self.validation_hidden.assign(tf.zeros_like(self.validation_hidden))

    def unroll(self, inputs, hidden, input_mask, hidden_mask, training, lengths=None):
        """Runs the search cell."""
        weights = tf.nn.softmax(tf.convert_to_tensor(self.alphas_recurrent))
        return self.cell(
            inputs,
            hidden,
            weights,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
            training=training,
        )

    def derive(self) -> RecurrentGenotype:
        """The discrete cell of the present alphas, by the published rule (paper, section 2.4)."""
        return derive_recurrent(self.alphas_recurrent.numpy(), primitives=self.primitives)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_nodes": self.cell.num_nodes,
            "primitives": list(self.primitives),
            "redraw_masks": self.redraw_masks,
            "jit_compile": self.cell.jit_compile,
        }

    def _told_apart_by(self):
        sums = [tf.reduce_sum(tf.convert_to_tensor(w)) for w in (self.decoder_bias, *self.cell.W)]
        return tf.stack([*sums, tf.reduce_sum(tf.convert_to_tensor(self.alphas_recurrent))])


@keras.saving.register_keras_serializable(package="darts_tf")
class RecurrentEvaluationNetwork(LanguageModel):
    """The language model of a derived cell.

    Args:
        genotype: The cell.
        vocabulary_size: Number of words.
        width: Of embedding and hidden state (850 as published for Penn Treebank, 700 for
            WikiText-2).
        batch_size: Rows of a training window (64 as published).
        evaluation_batch_size: Rows of an evaluation window (10 as published).
        regularization: Dropouts and penalties; the published ones of the search by default, beside
            which a published training has `dropoute=0.1`.
        seed: Of the dropout masks.

    Raises:
        InputError: A number is out of its range, or the genotype not a recurrent one.
    """

    def __init__(
        self,
        genotype: RecurrentGenotype,
        vocabulary_size: int,
        width: int = 850,
        batch_size: int = 64,
        evaluation_batch_size: int = 10,
        regularization: Regularization | dict | None = None,
        seed: int = 0,
        name: str = "recurrent_evaluation",
    ):
        super().__init__(
            vocabulary_size,
            width,
            batch_size,
            evaluation_batch_size,
            regularization,
            seed,
            False,
            name,
        )
        self.genotype = genotype
        self.cell = RecurrentDerivedCell(genotype, width)
        self.cell.build((None, width))
        self.built = True

    def unroll(self, inputs, hidden, input_mask, hidden_mask, training, lengths=None):
        """Runs the derived cell."""
        return self.cell.unroll(inputs, hidden, input_mask, hidden_mask, lengths)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "genotype": self.genotype.to_json()}

    @classmethod
    def from_config(cls, config):
        """The network of `get_config`."""
        return cls(**{**config, "genotype": RecurrentGenotype.from_json(config["genotype"])})
