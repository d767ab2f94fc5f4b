"""Layered drawing of a directed acyclic graph, from left to right, with a place for every label.

The method of Sugiyama, Tagawa and Toda (1981): vertices are put into columns, a link that passes a
column gets a place in it like everything else, columns are ordered to cross few lines, and then all
is moved to make lines short. A label is a place of its own in the column before the link's target,
so that no label can cover another, a vertex or a line.
"""

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Size = tuple[float, float]
Place = Hashable
Columns = list[list[Place]]

GAP = 26.0
"""Between columns; the lines bend here and nowhere else."""

CLEARANCE = 9.0
"""Between places of a column."""

PORT = 8.0
"""Between the ends of lines that enter the same vertex."""


@dataclass(frozen=True)
class Link:
    """A line between two vertices, given by their index; the size of its label, if it has one."""

    source: int
    target: int
    label: Size | None


@dataclass(frozen=True)
class Run:
    """A horizontal piece of a line; curves join one to the next."""

    start: float
    end: float
    y: float


@dataclass(frozen=True)
class Layout:
    """Where everything is; y grows downwards, centres are (x, y).

    Args:
        size: Width and height of the drawing.
        vertices: The centre of each vertex.
        labels: The centre of each link's label, None where it has none.
        lines: For each link the lines to draw, as runs: to its label and on from it, or just one.
    """

    size: Size
    vertices: list[tuple[float, float]]
    labels: list[tuple[float, float] | None]
    lines: list[list[list[Run]]]


def layered_layout(vertices: Sequence[Size], links: Sequence[Link]) -> Layout:
    """Lays out a graph whose links all lead from an earlier vertex to a later one.

    Args:
        vertices: Width and height of each vertex.
        links: The links; several may join the same two vertices.
    """
    column_of = _columns(len(vertices), links)
    chains = [_chain(index, link, column_of) for index, link in enumerate(links)]
    sizes: dict[Place, Size] = dict(enumerate(vertices))
    columns: Columns = [[] for _ in range(max(column_of) + 1)]
    for vertex, column in enumerate(column_of):
        columns[column].append(vertex)
    segments: set[tuple[Place, Place]] = set()
    for index, (link, chain) in enumerate(zip(links, chains, strict=True)):
        for column, place in enumerate(chain[1:-1], column_of[link.source] + 1):
            if place not in sizes:
                sizes[place] = link.label if place == ("label", index) else (0.0, 0.0)
                columns[column].append(place)
        segments.update(zip(chain, chain[1:], strict=False))
    columns = _with_few_crossings(columns, sorted(segments, key=repr))
    y = _heights(columns, sorted(segments, key=repr), sizes)
    return _drawn(columns, sizes, y, links, chains)


def _columns(num_vertices: int, links: Sequence[Link]) -> list[int]:
    """The column of each vertex: as far left as its links, each with room for its label, allow."""
    column_of = [0] * num_vertices
    for link in sorted(links, key=lambda link: link.target):
        reach = 1 if link.label is None else 2
        column_of[link.target] = max(column_of[link.target], column_of[link.source] + reach)
    return column_of


def _chain(index: int, link: Link, column_of: Sequence[int]) -> list[Place]:
    """The places of a link from source to target, one for each column."""
    # Labelled links of one source run together until they part, which draws fewer lines.
    bundle = "plain" if link.label is None else "labelled"
    between = range(column_of[link.source] + 1, column_of[link.target])
    chain: list[Place] = [link.source]
    chain += [(bundle, link.source, column) for column in between]
    if link.label is not None:
        chain[-1] = ("label", index)
    return [*chain, link.target]


def _with_few_crossings(columns: Columns, segments: Sequence[tuple[Place, Place]]) -> Columns:
    """The columns in an order that crosses few lines: sweeps of barycentres from several starts.

    The first column keeps its order, by which readers know the inputs.
    """
    left, right = defaultdict(list), defaultdict(list)
    for source, target in segments:
        right[source].append(target)
        left[target].append(source)
    # Always the same picture of the same graph.
    shuffle = random.Random(0).shuffle
    starts = max(1, min(24, 4000 // len(segments)))
    best, best_score = columns, None
    for start in range(starts):
        order = [list(column) for column in columns]
        if start:
            for column in order[1:]:
                shuffle(column)
        for _ in range(6):
            for near, sweep in ((left, order[1:]), (right, order[-2:0:-1])):
                for column in sweep:
                    _by_barycentre(column, near, _positions(order))
            for column in order[1:]:
                _swap_neighbours(column, (left, right), _positions(order))
            score = _score(order, segments, left, right)
            if best_score is None or score < best_score:
                best, best_score = [list(column) for column in order], score
    return best


def _positions(columns: Columns) -> dict[Place, int]:
    return {place: row for column in columns for row, place in enumerate(column)}


def _by_barycentre(column: list[Place], near, position: dict[Place, int]) -> None:
    def barycentre(place: Place) -> float:
        rows = [position[other] for other in near[place]]
        return sum(rows) / len(rows) if rows else position[place]

    column.sort(key=barycentre)


def _crossings(above: Sequence[int], below: Sequence[int]) -> int:
    """Crossings of the lines of two places, one above the other, that lead to these rows."""
    return sum(one > other for one in above for other in below)


def _swap_neighbours(column: list[Place], sides, position: dict[Place, int]) -> None:
    for row in range(len(column) - 1):
        one, other = column[row : row + 2]
        gain = 0
        for near in sides:
            first = [position[place] for place in near[one]]
            second = [position[place] for place in near[other]]
            gain += _crossings(first, second) - _crossings(second, first)
        if gain > 0:
            column[row : row + 2] = other, one


def _score(columns: Columns, segments, left, right) -> tuple[int, float, int]:
    """Crossings, then length of lines, then how far vertices are from their own order."""
    position = _positions(columns)
    crossings = 0
    for column in columns[1:]:
        for row, one in enumerate(column):
            for other in column[row + 1 :]:
                crossings += _crossings(
                    [position[place] for place in left[one]],
                    [position[place] for place in left[other]],
                )
    # Rows are compared from the middle of their column, where short columns are drawn.
    middle = {place: (len(column) - 1) / 2 for column in columns for place in column}
    length = sum(
        abs(position[source] - middle[source] - position[target] + middle[target])
        for source, target in segments
    )
    disorder = sum(
        isinstance(one, int) and isinstance(other, int) and one > other
        for column in columns
        for row, one in enumerate(column)
        for other in column[row + 1 :]
    )
    return crossings, length, disorder


def _heights(columns: Columns, segments, sizes: dict[Place, Size]) -> dict[Place, float]:
    """The y of each place: least squares of the lines' steps, with everything kept apart.

    The problem is convex; solving it column by column, over and over, comes to its one solution.
    """
    near: dict[Place, list[tuple[Place, float]]] = defaultdict(list)
    for source, target in segments:
        # A long line that wiggles is worse than a steep one at its ends.
        passing = sum(sizes[place] == (0.0, 0.0) for place in (source, target))
        weight = (1.0, 2.0, 40.0)[passing]
        near[source].append((target, weight))
        near[target].append((source, weight))
    gaps = [
        [
            (sizes[one][1] + sizes[other][1]) / 2 + CLEARANCE
            for one, other in zip(column, column[1:], strict=False)
        ]
        for column in columns
    ]
    y: dict[Place, float] = {}
    for column, apart in zip(columns, gaps, strict=True):
        start = -sum(apart) / 2
        for row, place in enumerate(column):
            y[place] = start + sum(apart[:row])
    for _ in range(80):
        for index in (*range(len(columns)), *range(len(columns) - 1, -1, -1)):
            column = columns[index]
            # A little weight on staying, so that a place without lines has an answer too.
            weights = [0.01 + sum(weight for _, weight in near[place]) for place in column]
            wanted = [
                (0.01 * y[place] + sum(weight * y[other] for other, weight in near[place])) / total
                for place, total in zip(column, weights, strict=True)
            ]
            y.update(zip(column, _kept_apart(wanted, weights, gaps[index]), strict=True))
    return y


def _kept_apart(wanted, weights, gaps) -> list[float]:
    """The values nearest to `wanted` that rise by at least the gaps (pool adjacent violators)."""
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[list[float]] = []
    for value, weight, offset in zip(wanted, weights, offsets, strict=True):
        pools.append([value - offset, weight, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, total, count = pools.pop()
            before = pools[-1]
            before[0] = (before[0] * before[1] + mean * total) / (before[1] + total)
            before[1] += total
            before[2] += count
    level = [mean for mean, _, count in pools for _ in range(int(count))]
    return [value + offset for value, offset in zip(level, offsets, strict=True)]


def _drawn(columns: Columns, sizes, y, links: Sequence[Link], chains) -> Layout:
    """Turns columns and heights into coordinates that start at (0, 0)."""
    extent: dict[Place, tuple[float, float]] = {}
    x = 0.0
    for column in columns:
        width = max(sizes[place][0] for place in column)
        extent.update((place, (x, x + width)) for place in column)
        x += width + GAP
    top = min(y[place] - sizes[place][1] / 2 for place in y)
    bottom = max(y[place] + sizes[place][1] / 2 for place in y)
    y = {place: value - top for place, value in y.items()}
    centre = {place: (sum(extent[place]) / 2, y[place]) for place in y}
    ends = _ports(links, chains, sizes, y)

    def lines_of(index: int, chain: list[Place]) -> list[list[Run]]:
        lines: list[list[Run]] = [[]]
        for place in chain:
            (start, end), half = extent[place], sizes[place][0] / 2
            middle = centre[place][0]
            if place == chain[0]:
                lines[-1].append(Run(middle + half, end, y[place]))
            elif place == chain[-1]:
                lines[-1].append(Run(start, middle - half, ends[index]))
            elif place == ("label", index):
                lines[-1].append(Run(start, middle - half, y[place]))
                lines.append([Run(middle + half, end, y[place])])
            else:
                lines[-1].append(Run(start, end, y[place]))
        return lines

    return Layout(
        size=(x - GAP, bottom - top),
        vertices=[centre[place] for place in sorted(p for p in y if isinstance(p, int))],
        labels=[centre.get(("label", index)) for index in range(len(links))],
        lines=[lines_of(index, chain) for index, chain in enumerate(chains)],
    )


def _ports(links: Sequence[Link], chains, sizes, y) -> list[float]:
    """The height at which each link enters its target, spread so that arrowheads stay apart."""
    entering: dict[int, list[int]] = defaultdict(list)
    for index, link in enumerate(links):
        entering[link.target].append(index)
    ends = [0.0] * len(links)
    for target, indices in entering.items():
        indices.sort(key=lambda index: y[chains[index][-2]])
        room = sizes[target][1] * 0.7
        step = min(PORT, room / max(1, len(indices) - 1))
        for row, index in enumerate(indices):
            ends[index] = y[target] + (row - (len(indices) - 1) / 2) * step
    return ends
