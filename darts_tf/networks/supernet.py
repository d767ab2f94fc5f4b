"""Supernet: the network of the search; every edge is a mixed operation (paper, section 2.2)."""

from collections.abc import Callable

import keras
import tensorflow as tf

from darts_tf.genotype import CNN_PRIMITIVES, Genotype, derive, num_edges
from darts_tf.networks import skeleton
from darts_tf.networks.preprocessing import ImageNetwork
from darts_tf.space.block import Block
from darts_tf.space.cells import SearchCell
from darts_tf.space.dual import Dual, Number, along, current_directions
from darts_tf.space.layout import View
from darts_tf.space.primitives import activation_function, check_primitives, primitive
from darts_tf.space.recompute import recomputed
from darts_tf.space.traces import Traces
from darts_tf.space.tracing import compute_dtype

STEM_MULTIPLIER = 3


@keras.saving.register_keras_serializable(package="darts_tf")
class Supernet(ImageNetwork):
    """Stem, search cells, classifier; owns the architecture parameters.

    All normal cells share `alphas_normal`, all reduction cells `alphas_reduce`; weights are never
    shared. The alphas are variables outside `trainable_variables`: no optimizer, decay, clipping or
    gradient norm of the weights sees them.

    Args:
        num_classes: Number of classes.
        init_channels: Channels C of the nodes of the first cells (16 as published); doubled at
            reductions.
        num_cells: Number of cells (8 as published); reductions stand at one and two thirds.
        num_nodes: Intermediate nodes in a cell (4 as published).
        image_shape: (height, width, channels) of the images; 8 px and up.
        primitives: Candidates on every edge, in the order of alpha's columns.
        activation: Activation of the candidates; a smooth one serves numeric checks.
        recompute: Whether a gradient computes each cell again instead of keeping what is inside:
            the same numbers with less memory and more time.
        preprocessing: A Keras layer without variables that the images go through first, in float32
            whatever the policy: `darts_tf.normalization(training_images)`,
            `keras.layers.Rescaling(1 / 255)`. None if the images come normalised.

    Input: (batch, height, width, channels) images on the scale of the preprocessing. Output:
        (batch, num_classes) logits.

    Raises:
        InputError: A number is not positive, the images are too small, a primitive is not known, or
            the preprocessing cannot be used.

    Reference:
        Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search (ICLR 2019), sections 2 and
            3.1.
    """

    returns_logits = True

    def __init__(
        self,
        num_classes: int = 10,
        init_channels: int = 16,
        num_cells: int = 8,
        num_nodes: int = 4,
        image_shape: tuple[int, int, int] = (32, 32, 3),
        primitives: tuple[str, ...] = CNN_PRIMITIVES,
        activation: str = "relu",
        recompute: bool = False,
        name: str = "supernet",
        preprocessing: keras.layers.Layer | None = None,
    ):
        super().__init__(name=name, autocast=False)
        num_classes, init_channels, num_cells, num_nodes = skeleton.positive(
            num_classes=num_classes,
            init_channels=init_channels,
            num_cells=num_cells,
            num_nodes=num_nodes,
        )
        plans = skeleton.cell_plans(num_cells, init_channels)
        self.image_shape = skeleton.check_image_shape(image_shape, sum(p.reduction for p in plans))
        self.primitives = check_primitives(tuple(primitives))
        activation_function(activation)
        self._config = {
            "num_classes": num_classes,
            "init_channels": init_channels,
            "num_cells": num_cells,
            "num_nodes": num_nodes,
            "image_shape": list(self.image_shape),
            "primitives": list(self.primitives),
            "activation": activation,
            "recompute": bool(recompute),
            "name": name,
        }
        self.own(preprocessing)
        before_last = last = STEM_MULTIPLIER * init_channels
        self._traces = Traces()
        self.stem = Block(skeleton.StemFunction(), self.image_shape[2], last, True, name="stem")
        self.cells = []
        for index, plan in enumerate(plans):
            cell = SearchCell(
                before_last,
                last,
                plan.channels,
                plan.reduction,
                plan.reduction_before,
                num_nodes=num_nodes,
                primitives=self.primitives,
                activation=activation,
                name=f"cell{index}",
            )
            self.cells.append(cell)
            before_last, last = last, num_nodes * plan.channels
        self.classifier = skeleton.Classifier(last, num_classes, name="classifier")
        shape = (num_edges(num_nodes), len(self.primitives))
        self.alphas_normal, self.alphas_reduce = (
            # The paper starts at zero; the authors' code adds noise that breaks ties.
            self.add_weight(
                name=f"alphas_{kind}",
                shape=shape,
                initializer=keras.initializers.RandomNormal(stddev=1e-3),
                trainable=False,
                autocast=False,
            )
            for kind in ("normal", "reduce")
        )
        self.built = True

    @property
    def architecture_parameters(self) -> list[keras.Variable]:
        """[alphas_normal, alphas_reduce], each (edges, primitives); 14 x 8 as published."""
        return [self.alphas_normal, self.alphas_reduce]

    @property
    def network_parameters(self) -> list[keras.Variable]:
        """The weights w: everything that the weight optimizer trains, no alphas."""
        return self.trainable_variables

    def parts(self) -> dict[str, keras.layers.Layer]:
        """Stem, cells and classifier by name."""
        cells = {cell.name: cell for cell in self.cells}
        return {"stem": self.stem, **cells, "classifier": self.classifier}

    def named_parameters(self) -> dict[str, View]:
        """The weights by path, such as "cell0/edge00_n0_p0/sep_conv_3x3/dw1/kernel"."""
        return skeleton.by_path(self.parts(), "named_parameters")

    def named_statistics(self) -> dict[str, View]:
        """The running statistics by path."""
        return skeleton.by_path(self.parts(), "named_statistics")

    def call(self, x, training=False):
        """Computes the logits."""
        return self.forward(x, training)[-1]

    def forward(self, x: tf.Tensor, training: bool = False) -> list[Number]:
        """The outputs of stem, every cell, and the logits last."""
        with self._traces.shared():
            return self._forward(self.preprocessed(x), training)

    def _forward(self, x, training):
        weights = {
            False: tf.nn.softmax(tf.convert_to_tensor(self.alphas_normal)),
            True: tf.nn.softmax(tf.convert_to_tensor(self.alphas_reduce)),
        }
        # `call`, not `__call__`: Keras lets only tensors into a layer, and `along` sends others.
        x = tf.cast(x, compute_dtype(self))
        before_last = last = self.stem.call(x, training=training)
        outputs = [last]
        for cell in self.cells:
            through = _recomputed if self._config["recompute"] and training else _kept
            softmax = weights[cell.reduction]
            before_last, last = last, through(cell, before_last, last, softmax, training)
            outputs.append(last)
        return [*outputs, self.classifier.call(last)]

    @property
    def along(self) -> Callable[[tf.Tensor, list[tf.Tensor]], Dual] | None:
        """`logits_along`; None where a candidate is not known to take a `Dual`."""
        known = all(primitive(name).takes_dual for name in self.primitives)
        return self.logits_along if known else None

    def logits_along(self, x: tf.Tensor, directions: list[tf.Tensor]) -> Dual:
        """The logits in training, and their derivative as the weights move.

        Args:
            x: (batch, height, width, channels).
            directions: The derivative of each of the weights, in the order of `network_parameters`.

        Returns:
            Value and derivative, (batch, num_classes) each. Running statistics stay as they are.
        """
        moving = dict(zip(map(id, self.network_parameters), directions, strict=True))
        with along(moving):
            return self.forward(x, training=True)[-1]

    def derive(self) -> Genotype:
        """The discrete cells of the present alphas, by the published rule (paper, section 2.4)."""
        normal, reduce = (alphas.numpy() for alphas in self.architecture_parameters)
        return derive(normal, reduce, primitives=self.primitives)

    def compute_output_shape(self, input_shape):
        """(batch, num_classes)."""
        return (input_shape[0], self._config["num_classes"])


def _kept(cell: SearchCell, before_last, last, softmax, training: bool) -> Number:
    return cell.call(before_last, last, softmax, training=training)


def _recomputed(cell: SearchCell, before_last, last, softmax, training: bool) -> Number:
    """The same, as a pure function of everything that it reads."""
    blocks = cell.blocks()
    weights = [block.vector for block in blocks if block.vector is not None]
    statistics = [block.statistics for block in blocks if block.statistics is not None]
    directions = current_directions()

    def compute(before_last, last, softmax, values, moving, tangents):
        given = [*zip(weights, values, strict=True), *zip(statistics, moving, strict=True)]
        with keras.StatelessScope(state_mapping=given) as scope, along(tangents or None):
            y = cell.call(before_last, last, softmax, training=training)
        return y, [scope.get_current_value(variable) for variable in statistics]

    y, updated = recomputed(
        compute,
        before_last,
        last,
        softmax,
        [tf.convert_to_tensor(v) for v in weights],
        [tf.convert_to_tensor(v) for v in statistics],
        {id(v): directions[id(v)] for v in weights} if directions else {},
    )
    for variable, value in zip(statistics, updated, strict=True):
        variable.assign(value)
    return y
