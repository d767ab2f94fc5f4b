"""EvaluationNetwork: derived cells, trained from scratch (paper, sections 3.2 and 3.3)."""

import dataclasses
import math

import keras
import tensorflow as tf

from darts_tf import replicas
from darts_tf.errors import InputError, unknown_name, whole_number
from darts_tf.genotype import Genotype
from darts_tf.networks import skeleton
from darts_tf.networks.auxiliary import AuxiliaryHead
from darts_tf.networks.preprocessing import ImageNetwork
from darts_tf.space.block import Block
from darts_tf.space.cells import DerivedCell
from darts_tf.space.layout import View
from darts_tf.space.traces import Traces
from darts_tf.space.tracing import compute_dtype

STEM_MULTIPLIER = 3


@keras.saving.register_keras_serializable(package="darts_tf")
class EvaluationNetwork(ImageNetwork):
    """Stem, derived cells, classifier, and an auxiliary classifier that only training uses.

    Args:
        genotype: The cells.
        num_classes: Number of classes.
        init_channels: Channels C of the nodes of the first cells (CIFAR 36, ImageNet 48 as
            published).
        num_cells: Number of cells (CIFAR 20, ImageNet 14); reductions stand at one and two thirds.
        auxiliary: Whether a second classifier reads the cell at two thirds in training.
        image_shape: (height, width, channels) of the images.
        stem: "cifar" (one 3x3 convolution) or "imagenet" (three of stride 2).
        seed: Seed of the drop path masks.
        preprocessing: A Keras layer without variables that the images go through first, in float32
            whatever the policy: `darts_tf.normalization(training_images)`,
            `keras.layers.Rescaling(1 / 255)`. None if the images come normalised.

    Call arguments:
        x: (batch, height, width, channels) images on the scale of the preprocessing.
        training: Whether BatchNorm uses the batch's statistics and drop path is active.

    Output: (batch, num_classes) logits. `forward` returns the auxiliary logits as well.

    Drop path: `drop_path_prob`, a variable that starts at 0, is the probability with which each
        operation's output is dropped for each example; `darts_tf.DropPathSchedule` sets it once an
        epoch.

    Raises:
        InputError: A number is not positive, the images are too small, the stem is not known, or
            the preprocessing cannot be used.
    """

    returns_logits = True

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int = 10,
        init_channels: int = 36,
        num_cells: int = 20,
        auxiliary: bool = False,
        image_shape: tuple[int, int, int] = (32, 32, 3),
        stem: str = "cifar",
        seed: int = 0,
        name: str = "evaluation_network",
        preprocessing: keras.layers.Layer | None = None,
    ):
        super().__init__(name=name, autocast=False)
        if not isinstance(genotype, Genotype):
            raise InputError(
                f"genotype must be a darts_tf.Genotype. Received: {genotype!r}. A published one is "
                'darts_tf.load_genotype("DARTS_V2"); a file is read by '
                "darts_tf.load_genotype(path)."
            )
        num_classes, init_channels, num_cells = skeleton.positive(
            num_classes=num_classes, init_channels=init_channels, num_cells=num_cells
        )
        seed = whole_number("seed", seed, 0)
        if stem not in ("cifar", "imagenet"):
            raise unknown_name("stem", stem, ("cifar", "imagenet"))
        if stem == "imagenet" and init_channels < 2:
            raise InputError(
                "The stem 'imagenet' starts with init_channels // 2 channels, so init_channels "
                f"must be at least 2. Received: init_channels={init_channels}."
            )
        plans = skeleton.cell_plans(
            num_cells, init_channels, reduction_before_first=stem == "imagenet"
        )
        halvings = sum(plan.reduction for plan in plans) + (3 if stem == "imagenet" else 0)
        self.image_shape = skeleton.check_image_shape(image_shape, halvings)
        self.genotype = genotype
        self._config = {
            "genotype": genotype.to_json(),
            "num_classes": num_classes,
            "init_channels": init_channels,
            "num_cells": num_cells,
            "auxiliary": bool(auxiliary),
            "image_shape": list(self.image_shape),
            "stem": stem,
            "seed": seed,
            "name": name,
        }
        self._traces = Traces()
        self.own(preprocessing)
        self.stems, before_last, last = _stems(stem, self.image_shape[2], init_channels)
        self.cells = []
        self.auxiliary_head, self.auxiliary_cell = None, 2 * num_cells // 3
        size = [-(-side // 8) if stem == "imagenet" else side for side in self.image_shape[:2]]
        for index, plan in enumerate(plans):
            nodes, concat = genotype.cell(reduction=plan.reduction)
            cell = DerivedCell(
                before_last,
                last,
                plan.channels,
                plan.reduction,
                plan.reduction_before,
                nodes=nodes,
                concat=concat,
                name=f"cell{index}",
            )
            self.cells.append(cell)
            before_last, last = last, len(concat) * plan.channels
            size = [-(-side // 2) for side in size] if plan.reduction else size
            if auxiliary and index == self.auxiliary_cell:
                self.auxiliary_head = AuxiliaryHead(last, num_classes, size, stem, name="auxiliary")
        self.classifier = skeleton.Classifier(last, num_classes, name="classifier")
        self.seed = seed
        state = {"initializer": "zeros", "trainable": False, "autocast": False}
        self.drop_path_prob = self.add_weight(name="drop_path_prob", shape=(), **state)
        # Counts training steps, so that the masks of a step are a function of (seed, step): resumed
        # runs repeat them.
        self.drop_path_step = self.add_weight(
            name="drop_path_step", shape=(), dtype="int64", **state
        )
        self.built = True

    @property
    def drop_path_sites(self) -> int:
        """Number of operations that drop path can drop."""
        return sum(sum(cell.droppable) for cell in self.cells)

    def parts(self) -> dict[str, keras.layers.Layer]:
        """Stems, cells, classifier and auxiliary head by name."""
        named = {stem.name: stem for stem in self.stems} | {cell.name: cell for cell in self.cells}
        named["classifier"] = self.classifier
        return named | ({"auxiliary": self.auxiliary_head} if self.auxiliary_head else {})

    def named_parameters(self) -> dict[str, View]:
        """The weights by path, such as "cell0/op0_n0_p0_sep_conv_3x3/dw1/kernel"."""
        return skeleton.by_path(self.parts(), "named_parameters")

    def named_statistics(self) -> dict[str, View]:
        """The running statistics by path."""
        return skeleton.by_path(self.parts(), "named_statistics")

    def count_weights(self) -> int:
        """Number of weights without the auxiliary head, as published counts are given."""
        named = self.named_parameters()
        return sum(
            math.prod(v.shape) for key, v in named.items() if not key.startswith("auxiliary/")
        )

    def call(self, x, training=False):
        """Computes the logits."""
        return self.forward(x, training).logits

    def forward(
        self, x: tf.Tensor, training: bool = False, keep: list[tf.Tensor] | None = None
    ) -> "Outputs":
        """Computes everything.

        Args:
            x: (batch, height, width, channels).
            training: As in a call.
            keep: Drop path's factors, one (batch,) tensor for each droppable operation in order;
                drawn from (seed, step) when None in training.
        """
        with self._traces.shared():
            return self._forward(self.preprocessed(x), training, keep)

    def _forward(self, x, training, keep):
        if training and keep is None:
            keep = self._draw_keep(x)
        before_last = last = tf.cast(x, compute_dtype(self))
        for stem in self.stems:
            before_last, last = last, stem(last, training=training)
        if len(self.stems) == 1:
            before_last = last
        outputs, auxiliary_logits = [], None
        for index, cell in enumerate(self.cells):
            sites = sum(cell.droppable)
            own, keep = (keep[:sites], keep[sites:]) if keep is not None else (None, None)
            before_last, last = last, cell(before_last, last, own, training=training)
            outputs.append(last)
            if training and self.auxiliary_head and index == self.auxiliary_cell:
                auxiliary_logits = self.auxiliary_head(last, training=training)
        return Outputs(self.classifier(last), auxiliary_logits, outputs)

    def _draw_keep(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Drop path: for each site and example 0 with probability p, else 1 / (1 - p).

        A function of (seed, step, place of the example in the global batch): drawn for all examples
        on every replica, which costs nothing beside a step.
        """
        step = tf.convert_to_tensor(self.drop_path_step)
        x = tf.convert_to_tensor(x)
        with tf.control_dependencies([x]):  # no step is counted where the data has ended
            self.drop_path_step.assign(step + 1)
        seed = tf.stack([tf.cast(self.seed, tf.int64), step])
        p = tf.convert_to_tensor(self.drop_path_prob)
        rows = replicas.rows(tf.shape(x)[0])
        drawn = tf.random.stateless_uniform(
            [rows.all, self.drop_path_sites], seed, dtype=p.dtype, alg="philox"
        )
        drawn = tf.transpose(rows.of(drawn))
        return tf.unstack(tf.cast(drawn >= p, p.dtype) / (1 - p), self.drop_path_sites)

    def compute_output_shape(self, input_shape):
        """(batch, num_classes)."""
        return (input_shape[0], self._config["num_classes"])

    @classmethod
    def from_config(cls, config):
        """The network of `get_config`."""
        genotype = Genotype.from_json(config["genotype"])
        return super().from_config({**config, "genotype": genotype})


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What `EvaluationNetwork.forward` computes.

    Attributes:
        logits: (batch, num_classes).
        auxiliary_logits: The same from the auxiliary head; None without one and outside training.
        cells: The output of every cell.
    """

    logits: tf.Tensor
    auxiliary_logits: tf.Tensor | None
    cells: list[tf.Tensor]


def _stems(kind: str, image_channels: int, channels: int) -> tuple[list[Block], int, int]:
    """The stem's blocks and the channels of the two inputs of the first cell."""
    if kind == "cifar":
        width = STEM_MULTIPLIER * channels
        return (
            [Block(skeleton.StemFunction(), image_channels, width, True, name="stem")],
            width,
            width,
        )
    half = channels // 2
    blocks = [
        Block(skeleton.StemFunction(2), image_channels, half, True, name="stem0_0"),
        Block(skeleton.StemFunction(2, relu_first=True), half, channels, True, name="stem0_1"),
        Block(skeleton.StemFunction(2, relu_first=True), channels, channels, True, name="stem1"),
    ]
    return blocks, channels, channels
