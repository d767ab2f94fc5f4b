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

MOST_NODES = 1000
"""Far above any cell; keeps a triple's node from being believed."""


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


def _is_decimal(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)


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


def checked_cell(name: str, value: object, concat: Any) -> tuple[Nodes, tuple[int, ...]]:
    """The cell called `name` ("normal" or "reduce"), as nodes, and its concat list.

    A node without an edge is no part of the cell (FairDARTS, `DCOCell`): neither the concat list
    nor an edge keeps it. Its place stays, so that the nodes behind it keep their numbers.

    Args:
        name: The field of the genotype.
        value: A list of nodes, a flat list of pairs, or a flat list of triples; see `Genotype`.
        concat: The nodes that make the output.

    Raises:
        InputError: The cell is none of these, a node or an edge is not valid, no edge or no node of
            the concat list is left, or that list does not fit the nodes.
    """
    nodes = _checked_nodes(name, _grouped(name, checked_list(name, value), concat))
    concat = checked_concat(f"{name}_concat", concat, INPUT_NODES, len(nodes))
    kept: list[tuple[Edge, ...]] = []
    there = set(range(INPUT_NODES))
    for node, edges in enumerate(nodes, INPUT_NODES):
        kept.append(tuple(edge for edge in edges if edge[1] in there))
        if kept[-1]:
            there.add(node)
    if not there.intersection(concat):
        raise InputError(
            f"{_cell_name(name)} cell: no node of {name}_concat has an edge that comes from the "
            f"cell's inputs. Received: {name}={show(value)}, {name}_concat={show(list(concat))}."
        )
    while not kept[-1]:
        kept.pop()
    return tuple(kept), tuple(node for node in concat if node in there)


def every_node(name: str, value: object) -> range:
    """The concat list of a cell, of either kind, that nothing says: all of its nodes.

    Raises:
        InputError: The cell is no list.
    """
    value = checked_list(name, value)
    if name == "recurrent":
        return range(1, 1 + len(value))
    return range(INPUT_NODES, INPUT_NODES + len(_grouped(name, value, None)))


def _checked_nodes(name: str, nodes: Sequence[Any]) -> Nodes:
    known = (*CNN_PRIMITIVES[1:], *CNN_EVALUATION_PRIMITIVES)
    result = []
    for node, edges in enumerate(nodes, INPUT_NODES):
        where = f"{_cell_name(name)} cell, node {node}"
        if not isinstance(edges, list | tuple):
            raise InputError(
                f"{where}: every node needs a list of (primitive, predecessor) pairs. "
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


def _grouped(name: str, value: Sequence[Any], concat: Any) -> Sequence[Any]:
    """The edges of each node, unchecked, from any of the accepted forms."""

    def form(entry: object) -> str:
        if not isinstance(entry, list | tuple) or not entry or not isinstance(entry[0], str):
            return "node"
        if len(entry) == 2 or _is_weighted(entry):
            return "pair"
        return "triple" if len(entry) == 3 else "neither"

    forms = {form(entry) for entry in value}
    if form(value[0]) == "node":
        return value
    if forms == {"pair"}:
        if len(value) % 2:
            raise InputError(
                f"{name} as a flat list has two (primitive, predecessor) pairs per node. Received "
                f"{len(value)} pairs. For other numbers of edges give one list of pairs per node."
            )
        return [value[start : start + 2] for start in range(0, len(value), 2)]
    if forms == {"triple"}:
        return _grouped_triples(name, value, concat)
    raise InputError(
        f"{name} must hold (primitive, predecessor) pairs only or (primitive, node, predecessor) "
        f"triples only. Received: {show(value)}."
    )


def _grouped_triples(name: str, triples: Sequence[Any], concat: Any) -> Sequence[Any]:
    nodes: dict[int, list[Any]] = {}
    for primitive, node, predecessor in triples:
        if not _is_integer(node) or not INPUT_NODES <= node < INPUT_NODES + MOST_NODES:
            raise InputError(
                f"{name}: the second entry of a (primitive, node, predecessor) triple is a node "
                f"from {INPUT_NODES} on, at most {INPUT_NODES + MOST_NODES - 1}. "
                f"Received: {show((primitive, node, predecessor))}."
            )
        nodes.setdefault(int(node), []).append((primitive, predecessor))
    count = max(nodes) + 1 - INPUT_NODES
    # That the last nodes have no edge, only a concat list of all nodes tells.
    if isinstance(concat, list | tuple | range):
        listed = list(concat[: MOST_NODES + 1])
        if listed == list(range(INPUT_NODES, INPUT_NODES + min(len(listed), MOST_NODES))):
            count = max(count, len(listed))
    return [nodes.get(node, []) for node in range(INPUT_NODES, INPUT_NODES + count)]


def _is_weighted(entry: Sequence[Any]) -> bool:
    """Whether it is a (primitive, predecessor, weight) triple: some tools add the weight."""
    return len(entry) == 3 and _is_decimal(entry[2])


def checked_edge(where: str, edge: object, node: int, known: Sequence[str]) -> Edge:
    """One edge into `node`, checked to be a known primitive that reads an earlier node.

    Args:
        where: What the message of an error starts with.
        edge: A (primitive, predecessor) pair; a decimal number behind it, its weight in the search,
            is left out.
        node: The number of the node that the edge goes into.
        known: The primitives that may stand on it.

    Raises:
        InputError: It is no pair, the primitive is unknown or `none`, or the predecessor is not in
            [0, node).
    """
    fits = isinstance(edge, list | tuple) and (len(edge) == 2 or _is_weighted(edge))
    if not fits or not isinstance(edge[0], str):
        raise InputError(
            f"{where}: expected a (primitive, predecessor) pair. Received: {show(edge)}."
        )
    primitive, predecessor = edge[:2]
    if primitive == "none":
        raise InputError(
            f"{where}: 'none' is the absence of an edge and cannot be part of a genotype. Leave "
            f"the edge out or choose one of {', '.join(known)}."
        )
    if primitive not in known:
        raise InputError(f"{where}: {unknown_name('primitive', primitive[:60], known)}")
    if not _is_integer(predecessor):
        raise InputError(
            f"{where}: the predecessor must be a whole number. Received: {show(predecessor)}"
            f"{', a decimal number' if _is_decimal(predecessor) else ''}."
        )
    if not 0 <= predecessor < node:
        raise InputError(
            f"{where}: a node reads earlier nodes only, here 0 to {node - 1}. "
            f"Received: {show((primitive, predecessor))}."
        )
    return primitive, int(predecessor)
