"""What an architecture is: plain data, checked once when it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from darts_tf.errors import InputError, whole_number
from darts_tf.genotype.finding import Found, find
from darts_tf.genotype.json_form import FIELDS, read_json, write_json
from darts_tf.genotype.primitives import RNN_PRIMITIVES
from darts_tf.genotype.text_form import write_text
from darts_tf.genotype.validation import (
    INPUT_NODES,
    Edge,
    Nodes,
    checked_cell,
    checked_concat,
    checked_edge,
    checked_list,
    every_node,
    show,
)


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell (paper, section 2.1 and figures 4 and 5).

    Nodes 0 and 1 are the cell's inputs, the n intermediate nodes count from 2. A node sums its
    edges; it usually has two, but may have any number, and the same edge may be given twice (NASNet
    does). The cell's output joins the nodes of the concat list in its order. As in FairDARTS' code,
    a node without an edge is left out, of the concat list too, and so is an edge that reads it.

    Args:
        normal: The normal cell, in one of three forms: a list of nodes, each a list of
            (primitive, predecessor) pairs; the published flat list of such pairs, two per node; or
            a flat list of (primitive, node, predecessor) triples. It is kept as the first.
        normal_concat: The nodes that make the output, each in [2, n + 1], none twice.
        reduce: The reduction cell, like `normal`; it may have another number of nodes.
        reduce_concat: Like `normal_concat`.

    Raises:
        InputError: An unknown primitive or `none`, an edge that does not come from an earlier node,
            a cell without an edge, or a concat list that does not fit the nodes.
    """

    normal: Nodes
    normal_concat: tuple[int, ...]
    reduce: Nodes
    reduce_concat: tuple[int, ...]

    def __post_init__(self):
        for name in ("normal", "reduce"):
            listed = f"{name}_concat"
            nodes, concat = checked_cell(name, getattr(self, name), getattr(self, listed))
            # The class is frozen for its users; this is the constructor bringing fields into form.
            object.__setattr__(self, name, nodes)
            object.__setattr__(self, listed, concat)

    def cell(self, reduction: bool) -> tuple[Nodes, tuple[int, ...]]:
        """The nodes and the concat list of the reduction cell, or of the normal cell."""
        if reduction:
            return self.reduce, self.reduce_concat
        return self.normal, self.normal_concat

    def edges(self, reduction: bool) -> tuple[tuple[str, int, int], ...]:
        """All edges of a cell as (primitive, node, predecessor), ordered by node."""
        nodes, _ = self.cell(reduction)
        return tuple(
            (primitive, node, predecessor)
            for node, incoming in enumerate(nodes, INPUT_NODES)
            for primitive, predecessor in incoming
        )

    def to_json(self, provenance: Mapping[str, Any] | None = None) -> str:
        """The JSON text of the genotype, ending in a newline; equal genotypes give equal text.

        Args:
            provenance: Any JSON object that says how the genotype was found.

        Raises:
            InputError: `provenance` is not a JSON object.
        """
        return write_json("cnn", _fields(self), provenance)

    @classmethod
    def from_json(cls, text: str) -> "Genotype":
        """Reads what `to_json` wrote.

        Raises:
            InputError: The text is no genotype, or one of a recurrent cell.
        """
        return _expect(cls, from_json(text))

    def to_text(self) -> str:
        """The published text form: pairs, or triples if a node has not exactly two edges."""
        paired = all(len(node) == 2 for node in (*self.normal, *self.reduce))
        values = _fields(self)
        for name in ("normal", "reduce"):
            edges = self.edges(reduction=name == "reduce")
            values[name] = [(edge[0], edge[2]) for edge in edges] if paired else edges
        return write_text(values)


@dataclass(frozen=True)
class RecurrentGenotype:
    """A recurrent cell (paper, section 2.1 and figure 6; highway form of ENAS).

    Node 0 combines input and last hidden state; entry i of the list belongs to node i + 1.

    Args:
        recurrent: One (activation, predecessor) pair per node; entry i reads a node in [0, i].
        concat: The nodes whose mean is the output, each in [1, n], none twice.

    Raises:
        InputError: An unknown activation or `none`, an edge from a node that is not
            earlier, or a concat list that does not fit the nodes.
    """

    recurrent: tuple[Edge, ...]
    concat: tuple[int, ...]

    def __post_init__(self):
        pairs = checked_list("recurrent", self.recurrent)
        known = RNN_PRIMITIVES[1:]
        nodes = tuple(
            checked_edge(f"Recurrent cell, node {node}", edge, node, known)
            for node, edge in enumerate(pairs, 1)
        )
        concat = checked_concat("concat", self.concat, 1, len(nodes))
        object.__setattr__(self, "recurrent", nodes)
        object.__setattr__(self, "concat", concat)

    def to_json(self, provenance: Mapping[str, Any] | None = None) -> str:
        """Like `Genotype.to_json`."""
        return write_json("rnn", _fields(self), provenance)

    @classmethod
    def from_json(cls, text: str) -> "RecurrentGenotype":
        """Like `Genotype.from_json`."""
        return _expect(cls, from_json(text))

    def to_text(self) -> str:
        """The published text form, `Genotype(recurrent=[('sigmoid', 0), ...], concat=...)`."""
        return write_text(_fields(self))


KINDS: dict[str, type] = {"cnn": Genotype, "rnn": RecurrentGenotype}
"""The classes by the name of their kind, as files, programs and the zoo spell it."""


def from_json(text: str) -> Genotype | RecurrentGenotype:
    """Reads the JSON text of a genotype of either kind.

    Raises:
        InputError: The text is empty, cut short, too long (1 MiB), of another format or a newer
            version, lacks or exceeds the fields of its kind, or is no valid genotype.
    """
    kind, values, _ = read_json(text)
    return KINDS[kind](**values)


def parse_text(text: str, which: str | int | None = None) -> Genotype | RecurrentGenotype:
    """The genotype that stands in a text: in the published form, in JSON, or as a dictionary.

    What stands around it is passed over: a log, Python, YAML, quotes. Nothing is evaluated.

    Args:
        text: At most 1 MiB.
        which: Of several genotypes, the name that stands before it or its index, from 0 or, from
            the end, -1.

    Raises:
        InputError: The text holds no valid genotype, or several that differ and `which` names none
            of them; the message lists them.
    """
    found = find(text)
    chosen = found if which is None else _named(found, which)
    if len(chosen) == 1 or _all_equal(chosen):
        return _made(chosen[0])
    raise InputError(
        f"The text holds {len(found)} genotypes. Say which by its name or its index, of a file as "
        f"FILE#NAME or FILE#INDEX: {_listed(found)}."
    )


def _made(found: Found) -> Genotype | RecurrentGenotype:
    kind, values = found.read()
    for cell, concat in zip(FIELDS[kind][::2], FIELDS[kind][1::2], strict=True):
        if concat not in values:
            values[concat] = every_node(cell, values[cell])
    return KINDS[kind](**values)


def _all_equal(found: Sequence[Found]) -> bool:
    try:
        first = _made(found[0])
        return all(_made(one) == first for one in found[1:])
    except InputError:
        return False


def _named(found: Sequence[Found], which: str | int) -> Sequence[Found]:
    named = [one for one in found if one.name and one.name == which]
    if named:
        return named
    try:
        index = int(which) if isinstance(which, str) else whole_number("which", which, -len(found))
        return [found[index]]
    except (ValueError, IndexError) as error:
        raise InputError(
            f"The text holds no genotype {show(which)}. It holds, by index: {_listed(found)}."
        ) from error


def _listed(found: Sequence[Found]) -> str:
    """The genotypes of a text by index, the middle of many left out."""
    shown = [
        f"{index} is {one.name[:40] or 'that'} in {one.place}" for index, one in enumerate(found)
    ]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-5:]])


def _fields(genotype: Any) -> dict[str, Any]:
    return {field.name: getattr(genotype, field.name) for field in fields(genotype)}


def _expect(expected: type, genotype: Any) -> Any:
    if not isinstance(genotype, expected):
        raise InputError(
            f"Expected a {expected.__name__}. Received a {type(genotype).__name__}; "
            "convolutional and recurrent cells cannot stand in for each other."
        )
    return genotype
