"""The checks of a genotype's fields, and the forms that they are accepted in."""

import numbers
import reprlib
from collections.abc import Sequence
from typing import Any

from darts_tf.errors import InputError, unknown_name
from darts_tf.genotype.primitives import CNN_EVALUATION_PRIMITIVES, CNN_PRIMITIVES

INPUT_NODES = 2
"""Nodes 0 and 1 of a convolutional cell are the outputs of the two cells before it."""

Edge = tuple[str, int]
"""A primitive and the node that it reads."""

Nodes = tuple[tuple[Edge, ...], ...]
"""The incoming edges of each intermediate node, in their order."""


def checked_concat(name: str, concat: Sequence[int], first: int, num_nodes: int) -> tuple[int, ...]:
    """The concat list called `name`, checked against nodes `first` to `first + num_nodes - 1`.

    Raises:
        InputError: It is empty, lists a node twice or one that is not an intermediate node.
    """
    last = first + num_nodes - 1
    if not isinstance(concat, list | tuple | range) or not concat:
        raise InputError(
            f"{name} must list at least one of the nodes {first} to {last}. "
            f"Received: {show(concat)}."
        )
    # A dict keeps the order and finds a repeated node at once.
    result: dict[int, None] = {}
    for node in concat:
        if not _is_integer(node) or not first <= node <= last:
            raise InputError(
                f"{name} must list intermediate nodes only, {first} to {last}. "
                f"Received node {show(node)}."
            )
        if node in result:
            raise InputError(f"{name} lists node {node} twice. List every node at most once.")
        result[int(node)] = None
    return tuple(result)


def show(value: object) -> str:
    """A received value for an error message, never long and never failing."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):
        # repr() of a number with thousands of digits raises.
        return f"an object of type {type(value).__name__}"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def checked_list(name: str, value: object) -> Sequence[Any]:
    """The cell called `name`, checked to be a list of something.

    Raises:
        InputError: It is no list or tuple, or empty.
    """
    if not isinstance(value, list | tuple) or not value:
        raise InputError(
            f"{name} must be a list of (primitive, predecessor) pairs for at least one node. "
            f"Received: {show(value)}."
        )
    return value


def checked_nodes(name: str, value: object) -> Nodes:
    """The cell called `name` ("normal" or "reduce") of a convolutional genotype, as nodes.

    Args:
        name: The field of the genotype.
        value: A list of nodes, a flat list of pairs, or a flat list of triples; see `Genotype`.

    Raises:
        InputError: It is none of these, or a node or an edge is not valid.
    """
    nodes = _grouped(name, checked_list(name, value))
    known = (*CNN_PRIMITIVES[1:], *CNN_EVALUATION_PRIMITIVES)
    result = []
    for node, edges in enumerate(nodes, INPUT_NODES):
        where = f"{_cell_name(name)} cell, node {node}"
        if not isinstance(edges, list | tuple) or not edges:
            raise InputError(
                f"{where}: every node needs a list of at least one (primitive, predecessor) pair. "
                f"Received: {show(edges)}."
            )
        result.append(
            tuple(
                checked_edge(f"{where}, edge {number}", edge, node, known)
                for number, edge in enumerate(edges, 1)
            )
        )
    return tuple(result)


def _cell_name(name: str) -> str:
    return {"normal": "Normal", "reduce": "Reduction"}[name]


def _grouped(name: str, value: Sequence[Any]) -> Sequence[Any]:
    """The edges of each node, unchecked, from any of the accepted forms."""

    def is_edge(entry: object) -> bool:
        return isinstance(entry, list | tuple) and len(entry) > 0 and isinstance(entry[0], str)

    if not is_edge(value[0]):
        return value
    lengths = {len(entry) if is_edge(entry) else 0 for entry in value}
    if lengths == {2}:
        if len(value) % 2:
            raise InputError(
                f"{name} as a flat list has two (primitive, predecessor) pairs per node. Received "
                f"{len(value)} pairs. For other numbers of edges give one list of pairs per node."
            )
        return [value[start : start + 2] for start in range(0, len(value), 2)]
    if lengths == {3}:
        return _grouped_triples(name, value)
    raise InputError(
        f"{name} must hold (primitive, predecessor) pairs only or (primitive, node, predecessor) "
        f"triples only. Received: {show(value)}."
    )


def _grouped_triples(name: str, triples: Sequence[Any]) -> Sequence[Any]:
    nodes: dict[int, list[Any]] = {}
    for primitive, node, predecessor in triples:
        if not _is_integer(node) or node < INPUT_NODES:
            raise InputError(
                f"{name}: the second entry of a (primitive, node, predecessor) triple is a node "
                f"from {INPUT_NODES} on. Received: {show((primitive, node, predecessor))}."
            )
        nodes.setdefault(node, []).append((primitive, predecessor))
    for expected, node in enumerate(sorted(nodes), INPUT_NODES):
        if node != expected:
            raise InputError(
                f"{_cell_name(name)} cell, node {expected} has no edge, but node {show(node)} has. "
                "Every node needs at least one; number the nodes without gaps."
            )
    return [nodes[node] for node in sorted(nodes)]


def checked_edge(where: str, edge: object, node: int, known: Sequence[str]) -> Edge:
    """One edge into `node`, checked to be a known primitive that reads an earlier node.

    Args:
        where: What the message of an error starts with.
        edge: A (primitive, predecessor) pair.
        node: The number of the node that the edge goes into.
        known: The primitives that may stand on it.

    Raises:
        InputError: It is no pair, the primitive is unknown or `none`, or the predecessor is not in
            [0, node).
    """
    if not isinstance(edge, list | tuple) or len(edge) != 2 or not isinstance(edge[0], str):
        raise InputError(
            f"{where}: expected a (primitive, predecessor) pair. Received: {show(edge)}."
        )
    primitive, predecessor = edge
    if primitive == "none":
        raise InputError(
            f"{where}: 'none' is the absence of an edge and cannot be part of a genotype. Leave "
            f"the edge out or choose one of {', '.join(known)}."
        )
    if primitive not in known:
        raise InputError(f"{where}: {unknown_name('primitive', primitive[:60], known)}")
    if not _is_integer(predecessor):
        raise InputError(
            f"{where}: the predecessor must be a whole number. Received: {show(predecessor)}."
        )
    if not 0 <= predecessor < node:
        raise InputError(
            f"{where}: a node reads earlier nodes only, here 0 to {node - 1}. "
            f"Received: {show((primitive, predecessor))}."
        )
    return primitive, int(predecessor)
