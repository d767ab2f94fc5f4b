"""From architecture parameters to a genotype: the published rule (paper, section 2.4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from darts_tf.errors import InputError, whole_number
from darts_tf.genotype.genotype import Genotype, RecurrentGenotype
from darts_tf.genotype.primitives import CNN_PRIMITIVES, RNN_PRIMITIVES
from darts_tf.genotype.validation import INPUT_NODES

# Edge numbering, here and nowhere else: rows of alpha are ordered by target node, then by
# predecessor; an intermediate node has an edge from each input of the cell and each earlier node.


def edge_offset(node: int, num_inputs: int = INPUT_NODES) -> int:
    """The first row of alpha of an intermediate node; that of predecessor j comes j rows later.

    Args:
        node: The intermediate node, counted from 0 (node 2 of a convolutional cell is 0 here).
        num_inputs: Nodes before the first intermediate one: 2 in a convolutional cell, 1 in a
            recurrent one.

    Returns:
        `node * num_inputs + node * (node - 1) / 2`: 0, 2, 5, 9 in the published convolutional cell.
    """
    node, num_inputs = whole_number("node", node, 0), whole_number("num_inputs", num_inputs)
    return node * num_inputs + node * (node - 1) // 2


def num_edges(num_nodes: int, num_inputs: int = INPUT_NODES) -> int:
    """Rows of alpha of a cell with `num_nodes` intermediate nodes: 14 for 4, as published."""
    return edge_offset(num_nodes, num_inputs)


def num_nodes_of(rows: int, num_inputs: int = INPUT_NODES) -> int:
    """The number of intermediate nodes whose edges are `rows` rows of alpha.

    Raises:
        InputError: No number of nodes has that many edges.
    """
    rows, num_nodes = whole_number("rows", rows, 0), 0
    while num_edges(num_nodes, num_inputs) < rows:
        num_nodes += 1
    if rows < 1 or num_edges(num_nodes, num_inputs) != rows:
        possible = ", ".join(str(num_edges(n, num_inputs)) for n in range(1, 9))
        raise InputError(
            f"No cell has {rows} edges. A cell with {num_inputs} input node(s) and 1, 2, 3, ... "
            f"intermediate nodes has {possible}, ... edges, one row of alpha each."
        )
    return num_nodes


def derive(
    alphas_normal: Any,
    alphas_reduce: Any,
    *,
    inputs_per_node: int = 2,
    primitives: Sequence[str] = CNN_PRIMITIVES,
    concat: Sequence[int] | None = None,
) -> Genotype:
    """The genotype of the strongest edges (paper, section 2.4).

    The strength of an edge is the largest softmax weight of its primitives other than `none`, which
    takes part in the softmax. Every node keeps its strongest edges, strongest first, each with its
    strongest primitive. Equal strengths keep the lower predecessor, equal primitives the lower
    column.

    Args:
        alphas_normal: Architecture parameters of the normal cell, before the softmax, shape
            (n (n + 3) / 2, number of primitives) for n intermediate nodes.
        alphas_reduce: The same of the reduction cell.
        inputs_per_node: How many edges a node keeps, at least 1; a node with fewer keeps all.
        primitives: The names of the columns, with or without `none`.
        concat: The nodes that make the output of both cells; all intermediate nodes by default.

    Raises:
        InputError: A wrong shape, a value that is not finite, or an unusable name or number.
    """
    inputs_per_node = whole_number("inputs_per_node", inputs_per_node)
    normal, reduce = (
        _strongest(name, alphas, primitives, INPUT_NODES, inputs_per_node)
        for name, alphas in (("alphas_normal", alphas_normal), ("alphas_reduce", alphas_reduce))
    )
    normal_concat, reduce_concat = (
        range(INPUT_NODES, INPUT_NODES + len(nodes)) if concat is None else concat
        for nodes in (normal, reduce)
    )
    return Genotype(normal, normal_concat, reduce, reduce_concat)


def derive_recurrent(
    alphas: Any,
    *,
    primitives: Sequence[str] = RNN_PRIMITIVES,
    concat: Sequence[int] | None = None,
) -> RecurrentGenotype:
    """The recurrent genotype of the strongest edges (paper, section 2.4): one per node.

    Strengths and ties are those of `derive`.

    Args:
        alphas: Architecture parameters before the softmax, shape (n (n + 1) / 2, number of
            primitives) for n nodes.
        primitives: The names of the columns, with or without `none`.
        concat: The nodes that make the output; by default 1 to n.

    Raises:
        InputError: A wrong shape, a value that is not finite, or an unusable name.
    """
    nodes = _strongest("alphas", alphas, primitives, 1, 1)
    return RecurrentGenotype(
        [node[0] for node in nodes], range(1, 1 + len(nodes)) if concat is None else concat
    )


def _strongest(
    name: str, alphas: Any, primitives: Sequence[str], num_inputs: int, inputs_per_node: int
) -> list[list[tuple[str, int]]]:
    """The kept (primitive, predecessor) pairs of each intermediate node."""
    columns = [column for column, primitive in enumerate(primitives) if primitive != "none"]
    if isinstance(primitives, str) or not columns or len(set(primitives)) != len(primitives):
        raise InputError(
            "primitives must list different names, at least one of them other than 'none'. "
            f"Received: {primitives!r}."
        )
    # rows x primitives; `none` leaves only after the softmax, in which it has its share.
    weights = _softmax(_checked_alphas(name, alphas, len(primitives)))[:, columns]
    best = weights.argmax(axis=1)
    strengths = weights.max(axis=1)
    try:
        num_nodes = num_nodes_of(len(weights), num_inputs)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    nodes = []
    for node in range(num_nodes):
        start, end = edge_offset(node, num_inputs), edge_offset(node + 1, num_inputs)
        # Stable, so that of equal strengths the lower predecessor comes first.
        kept = np.argsort(-strengths[start:end], kind="stable")[:inputs_per_node]
        nodes.append([(primitives[columns[best[start + j]]], int(j)) for j in kept])
    return nodes


def _checked_alphas(name: str, alphas: Any, num_primitives: int) -> np.ndarray:
    try:
        values = np.asarray(alphas, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers: {error}.") from error
    if values.ndim != 2 or values.shape[1] != num_primitives:
        raise InputError(
            f"{name} must have shape (edges, {num_primitives}), one column for each primitive. "
            f"Received shape {values.shape}."
        )
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"{name} must be finite. Received {values[row, column]} at edge {row}, primitive "
            f"{column}. The search diverged; look at its losses before this epoch."
        )
    return values


def _softmax(alphas: np.ndarray) -> np.ndarray:
    exponentials = np.exp(alphas - alphas.max(axis=1, keepdims=True))
    # Summed in sorted order, edges whose rows are permutations of each other tie exactly.
    return exponentials / np.sort(exponentials, axis=1).sum(axis=1, keepdims=True)
