"""Cells: the graph that is searched, and the one that is derived (paper, section 2.1).

Node 0 is the output of the cell before the last, node 1 that of the last cell; intermediate nodes
count from 2 and sum what comes in; the output joins nodes in the channels. Rows of alpha are
ordered by target node, then source node.
"""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from darts_tf.space.block import Block, PrimitiveFunction
from darts_tf.space.dual import Number, join, total
from darts_tf.space.layout import Composite, View
from darts_tf.space.mixed import MixedFunction
from darts_tf.space.primitives import (
    FACTORIZED_REDUCE,
    RELU_CONV_BN,
    activation_function,
    primitive,
)
from darts_tf.space.state import State

INPUT_NODES = 2


def stride_of_edge(source: int, reduction: bool) -> int:
    """2 on the edges that leave the two inputs of a reduction cell, else 1."""
    return 2 if reduction and source < INPUT_NODES else 1


class Cell(keras.layers.Layer):
    """What both kinds share: preprocessing of the two inputs to the cell's channels and size.

    Args:
        channels_before_last: Channels of the first input, the output of the cell before the last.
        channels_last: Channels of the second input, the output of the last cell.
        channels: Channels of every node.
        reduction: Whether the cell halves height and width.
        reduction_before: Whether the last cell did; the first input is then twice too large.
        search: Search form (BatchNorm without scale and shift) or evaluation form.
        activation: Name of the activation.
    """

    def __init__(
        self,
        channels_before_last: int,
        channels_last: int,
        channels: int,
        reduction: bool,
        reduction_before: bool,
        search: bool,
        activation: str,
        name: str | None = None,
    ):
        super().__init__(name=name, autocast=False)
        self.reduction = reduction
        self._activation = activation_function(activation)
        first = FACTORIZED_REDUCE if reduction_before else RELU_CONV_BN
        self.preprocess = []
        for index, (operation, width) in enumerate(
            ((first, channels_before_last), (RELU_CONV_BN, channels_last))
        ):
            function = PrimitiveFunction(
                operation, 2 if operation is FACTORIZED_REDUCE else 1, search, activation
            )
            self.preprocess.append(Block(function, width, channels, not search, name=f"pre{index}"))
        self.built = True

    def blocks(self) -> list[Block]:
        """All blocks of the cell, in order."""
        return list(self.preprocess)

    def named_parameters(self) -> dict[str, View]:
        """The trainable weights by path, such as "pre0/conv/kernel"."""
        return self.named("named_parameters")

    def named_statistics(self) -> dict[str, View]:
        """The running statistics by path, such as "pre0/bn/moving_mean"."""
        return self.named("named_statistics")

    def named(self, kind: str) -> dict[str, View]:
        """What a method of every block returns by name, the block's name in front."""
        return {f"{b.name}/{k}": v for b in self.blocks() for k, v in getattr(b, kind)().items()}

    def state(self, node: Number, stride: int = 1) -> State:
        """The state of a node, which the operations on all edges that leave it share."""
        return State(stride, self._activation, whole=node)

    def input_nodes(self, before_last: tf.Tensor, last: tf.Tensor, training: bool) -> list[State]:
        """Nodes 0 and 1."""
        return [
            self.state(block.call(x, training=training), stride_of_edge(source, self.reduction))
            for source, (block, x) in enumerate(
                zip(self.preprocess, (before_last, last), strict=True)
            )
        ]


@dataclasses.dataclass(frozen=True)
class MixedEdges(Composite):
    """The nodes of a search cell: node_i = sum over j < i of m_(i,j)(node_j).

    Cells of equal geometry share one trace of all this, in which edges of equal geometry share one.
    """

    primitives: tuple[str, ...]
    num_nodes: int
    reduction: bool
    activation: str

    def parts(self) -> dict[str, MixedFunction]:
        """The mixed operation of every edge, as "edge04_n1_p2": edge 4, from node 2 to node 1.

        (Intermediate nodes are counted from 0 there, sources from the first input.)
        """
        edges = [(n, j) for n in range(self.num_nodes) for j in range(INPUT_NODES + n)]
        return {
            f"edge{edge:02d}_n{node}_p{source}": MixedFunction(
                self.primitives, stride_of_edge(source, self.reduction), self.activation
            )
            for edge, (node, source) in enumerate(edges)
        }

    def __call__(self, apply, first: Number, second: Number, softmax: tf.Tensor) -> Number:
        """Computes the cell's output.

        Args:
            apply: Applies a part by its name, to what it reads and its mixing weights.
            first, second: The preprocessed inputs, nodes 0 and 1.
            softmax: (edges, candidates).
        """
        activation = activation_function(self.activation)
        states = [
            State(stride_of_edge(source, self.reduction), activation, whole=node)
            for source, node in enumerate((first, second))
        ]
        edges = zip(self.parts().items(), tf.unstack(softmax), strict=True)
        for _ in range(self.num_nodes):
            mixed = [
                apply(name, state.read(part.reads()), row)
                for state, ((name, part), row) in zip(states, edges, strict=False)
            ]
            states.append(State(1, activation, whole=total(mixed)))
        return join([state.whole for state in states[INPUT_NODES:]])


class SearchCell(Cell):
    """A cell in which every node has a mixed operation from every earlier node.

    Args:
        num_nodes: Number of intermediate nodes; all of them are joined in the output (4 as
            published).
        primitives: Names of the candidates.

    Call arguments:
        before_last, last: (batch, height, width, channels) outputs of the two cells before.
        softmax: (edges, candidates) mixing weights, each row a softmax.
        training: Whether BatchNorm uses the batch's statistics.

    Output: (batch, height / s, width / s, num_nodes * channels), s = 2 in a reduction cell.
    """

    def __init__(self, *args, num_nodes: int, primitives: tuple[str, ...], **kwargs):
        super().__init__(*args, search=True, **kwargs)
        channels = self.preprocess[1].channels
        function = MixedEdges(tuple(primitives), num_nodes, self.reduction, kwargs["activation"])
        # BatchNorm has no scale here: it could undo the mixing weights.
        self.edges = Block(function, channels, channels, affine=False, name="edges")

    def blocks(self) -> list[Block]:
        """All blocks of the cell, in order."""
        return [*super().blocks(), self.edges]

    def named(self, kind: str) -> dict[str, View]:
        """As of every cell, edges as "edge00_n0_p0/sep_conv_3x3/dw1/kernel"."""
        return {key.removeprefix("edges/"): view for key, view in super().named(kind).items()}

    def call(self, before_last, last, softmax, training=False):
        """Preprocesses the inputs and computes the nodes."""
        nodes = [
            block.call(x, training=training)
            for block, x in zip(self.preprocess, (before_last, last), strict=True)
        ]
        return self.edges.apply_to(tuple(nodes), softmax, training=training)


class DerivedCell(Cell):
    """A cell of a genotype: every node sums the few operations that were kept.

    Args:
        nodes: For each intermediate node its (primitive, source) pairs; a node that has none is
            left out, and no other reads it.
        concat: Nodes that are joined in the output.

    Call arguments:
        before_last, last: (batch, height, width, channels) outputs of the two cells before.
        keep: Factor of every operation's output, (batch,) each, or None: drop path.
        training: Whether BatchNorm uses the batch's statistics.

    Output: (batch, height / s, width / s, len(concat) * channels), s = 2 in a reduction cell.
    """

    def __init__(
        self,
        *args,
        nodes: Sequence[Sequence[tuple[str, int]]],
        concat: Sequence[int],
        **kwargs,
    ):
        super().__init__(*args, search=False, activation="relu", **kwargs)
        channels = self.preprocess[1].channels
        self.sources = tuple(tuple(source for _, source in node) for node in nodes)
        self.concat = tuple(concat)
        self.operations = []
        self.droppable = []
        for index, (number, name, source) in enumerate(
            (number, name, source) for number, node in enumerate(nodes) for name, source in node
        ):
            stride = stride_of_edge(source, self.reduction)
            function = PrimitiveFunction(primitive(name), stride)
            block = Block(
                function, channels, channels, True, name=f"op{index}_n{number}_p{source}_{name}"
            )
            self.operations.append(block)
            # Drop path spares the identity (a skip connection at stride 1).
            self.droppable.append(not (name == "skip_connect" and stride == 1))

    def blocks(self) -> list[Block]:
        """All blocks of the cell, in order."""
        return [*super().blocks(), *self.operations]

    def call(self, before_last, last, keep=None, training=False):
        """node_i = sum over the kept edges of o(node_j), each dropped by its own mask."""
        states = self.input_nodes(before_last, last, training)
        operations = iter(zip(self.operations, self.droppable, strict=True))
        factors = iter(keep or ())
        for sources in self.sources:
            kept = []
            for source in sources:
                operation, droppable = next(operations)
                y = operation.apply_to(
                    states[source].read(operation.function.reads()), training=training
                )
                if keep is not None and droppable:
                    y *= tf.cast(next(factors), y.dtype)[:, None, None, None]
                kept.append(y)
            # A node without an edge is read by no other.
            states.append(self.state(tf.add_n(kept)) if kept else None)
        return tf.concat([states[node].whole for node in self.concat], -1)
