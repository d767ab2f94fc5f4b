"""Pictures of cells: nodes from left to right, every edge with its primitive."""

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from darts_tf import files
from darts_tf.errors import InputError
from darts_tf.genotype import INPUT_NODES, Genotype, RecurrentGenotype
from darts_tf.report.figures import (
    COLOURS,
    FORMATS,
    OTHER_COLOUR,
    check_format,
    save_figure,
)
from darts_tf.report.layout import Layout, Link, Run, layered_layout

MARGIN = 14.0
HEADING = 24.0
LABEL_FONT = FontProperties(family="DejaVu Sans", size=8.5)
NODE_FONT = FontProperties(family="DejaVu Sans", size=10.5)
HEADING_FONT = FontProperties(family="DejaVu Sans", size=11, weight="bold")
TITLE_FONT = FontProperties(family="DejaVu Sans", size=13, weight="bold")
FILLS = {"input": "#d5ead0", "node": "#dbe7f5", "output": "#f6e9b8"}
LINE_COLOUR = "#4d4d4d"
CONCAT_COLOUR = "#a8a8a8"
DPI = 200


@dataclass(frozen=True)
class CellGraph:
    """A cell as a graph.

    Args:
        name: What the cell is called.
        vertices: Name and role ("input", "node" or "output") of each vertex.
        links: (source, target, primitive) by index; no primitive where a value is only passed on.
    """

    name: str
    vertices: tuple[tuple[str, str], ...]
    links: tuple[tuple[int, int, str | None], ...]


def plot_genotype(
    genotype: Genotype | RecurrentGenotype,
    path: str | os.PathLike[str],
    title: str | None = None,
) -> None:
    """Draws the cells of a genotype as in the paper's figures 4 to 6.

    Args:
        genotype: What to draw; a convolutional one gives the normal cell above the reduction cell.
        path: Where to write; the suffix chooses the format: .svg, .png, .pdf, or .dot for Graphviz.
        title: A line above the cells; none by default.

    Raises:
        InputError: `genotype` is none, the suffix is another, or the file cannot be written.
    """
    graphs = cell_graphs(genotype)
    if check_format(path, (*FORMATS, ".dot")) != ".dot":
        save_figure(genotype_figure(genotype, title), path)
        return
    files.write(path, _dot(graphs, title))


def genotype_figure(genotype: Genotype | RecurrentGenotype, title: str | None = None) -> Figure:
    """The figure that `plot_genotype` writes.

    Raises:
        InputError: `genotype` is none.
    """
    drawings = [(graph, _layout(graph)) for graph in cell_graphs(genotype)]
    headings = [TITLE_FONT] * bool(title) + [HEADING_FONT] * len(drawings)
    texts = [title] * bool(title) + [graph.name for graph, _ in drawings]
    inner = [layout.size[0] for _, layout in drawings]
    inner += [_extent(text, font) for text, font in zip(texts, headings, strict=True)]
    width = max(inner) + 2 * MARGIN
    height = sum(layout.size[1] + HEADING + 2 * MARGIN for _, layout in drawings)
    height += HEADING if title else 0
    # One unit of the axes is one point of the page, so that texts fit the room left for them.
    figure = Figure(figsize=(width / 72, height / 72), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    top = MARGIN
    if title:
        _heading(axes, title, (width / 2, top + HEADING / 2), TITLE_FONT, "center")
        top += HEADING
    for graph, layout in drawings:
        _heading(axes, graph.name, (MARGIN, top + HEADING / 3), HEADING_FONT, "left")
        _draw(axes, graph, layout, (MARGIN, top + HEADING))
        top += layout.size[1] + HEADING + 2 * MARGIN
    return figure


def cell_graphs(genotype: Genotype | RecurrentGenotype) -> list[CellGraph]:
    """The cells of a genotype as graphs.

    Raises:
        InputError: `genotype` is none.
    """
    if isinstance(genotype, RecurrentGenotype):
        names = ["x_{t}", "h_{t-1}", *map(str, range(len(genotype.recurrent) + 1)), "h_{t}"]
        links = [(0, 2, None), (1, 2, None)]
        links += [
            (predecessor + 2, node + 2, primitive)
            for node, (primitive, predecessor) in enumerate(genotype.recurrent, 1)
        ]
        links += [(node + 2, len(names) - 1, None) for node in sorted(genotype.concat)]
        return [CellGraph("Recurrent cell", _roles(names), tuple(links))]
    if not isinstance(genotype, Genotype):
        raise InputError(
            "Only a Genotype or a RecurrentGenotype can be drawn. "
            f"Received: {type(genotype).__name__}."
        )
    graphs = []
    for name, reduction in (("Normal cell", False), ("Reduction cell", True)):
        nodes, concat = genotype.cell(reduction)
        # A node without an edge is not drawn; the others keep their numbers.
        shown = [node for node, edges in enumerate(nodes, INPUT_NODES) if edges]
        names = ["c_{k-2}", "c_{k-1}", *(str(node - INPUT_NODES) for node in shown), "c_{k}"]
        index = {node: place for place, node in enumerate([*range(INPUT_NODES), *shown])}
        links = [
            (index[predecessor], index[node], primitive)
            for primitive, node, predecessor in genotype.edges(reduction)
        ]
        links += [(index[node], len(names) - 1, None) for node in sorted(concat)]
        graphs.append(CellGraph(name, _roles(names), tuple(links)))
    return graphs


def _roles(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    inner = len(names) - INPUT_NODES - 1
    roles = ["input"] * INPUT_NODES + ["node"] * inner + ["output"]
    return tuple(zip(names, roles, strict=True))


def _shown(name: str) -> str:
    return name if name.isdecimal() else f"${name}$"


@functools.cache
def _extent(text: str, font: FontProperties) -> float:
    """The width of a text in points."""
    return TextPath((0, 0), text, prop=font, usetex=False).get_extents().width if text else 0.0


def _vertex_sizes(graph: CellGraph) -> list[tuple[float, float]]:
    entering = Counter(target for _, target, _ in graph.links)
    return [
        # High enough to keep arrowheads apart.
        (max(24.0, _extent(_shown(name), NODE_FONT) + 16), max(24.0, 8.0 * entering[vertex]))
        for vertex, (name, _) in enumerate(graph.vertices)
    ]


def _label_size(primitive: str) -> tuple[float, float]:
    return _extent(primitive, LABEL_FONT) + 12, 16.0


def _layout(graph: CellGraph) -> Layout:
    links = [
        Link(source, target, None if primitive is None else _label_size(primitive))
        for source, target, primitive in graph.links
    ]
    return layered_layout(_vertex_sizes(graph), links)


def _draw(axes: Axes, graph: CellGraph, layout: Layout, origin: tuple[float, float]) -> None:
    left, top = origin
    for (_, _, primitive), label, lines in zip(
        graph.links, layout.labels, layout.lines, strict=True
    ):
        # Lines have no colour of a primitive, because those of one source run together.
        colour = CONCAT_COLOUR if primitive is None else LINE_COLOUR
        for line in lines:
            _line(axes, line, origin, colour, arrow=line is lines[-1])
        if label is not None:
            colour = COLOURS.get(primitive, OTHER_COLOUR)
            centre = (left + label[0], top + label[1])
            _box(axes, centre, _label_size(primitive), _tint(colour), colour, rounding=8)
            _text(axes, primitive, centre, LABEL_FONT)
    for (name, role), (x, y), size in zip(
        graph.vertices, layout.vertices, _vertex_sizes(graph), strict=True
    ):
        _box(axes, (left + x, top + y), size, FILLS[role], "#3d3d3d", rounding=5)
        _text(axes, _shown(name), (left + x, top + y), NODE_FONT)


def _line(axes: Axes, runs: list[Run], origin, colour: str, arrow: bool) -> None:
    left, top = origin
    points = [(left + runs[0].start, top + runs[0].y)]
    codes = [Outline.MOVETO]
    for index, run in enumerate(runs):
        x, y = left + run.start, top + run.y
        if index:
            (from_x, from_y), half = points[-1], (x - points[-1][0]) / 2
            points += [(from_x + half, from_y), (x - half, y), (x, y)]
            codes += [Outline.CURVE4] * 3
        if run.end > run.start:
            points.append((left + run.end, y))
            codes.append(Outline.LINETO)
    axes.add_patch(
        FancyArrowPatch(
            path=Outline(points, codes),
            arrowstyle="-|>,head_length=4,head_width=2" if arrow else "-",
            mutation_scale=1,
            shrinkA=0,
            shrinkB=0,
            color=colour,
            linewidth=1.1,
            joinstyle="miter",
            capstyle="butt",
        )
    )


def _tint(colour: str) -> tuple[float, ...]:
    return tuple(1 - 0.14 * (1 - part) for part in to_rgb(colour))


def _box(axes: Axes, centre, size, fill, edge: str, rounding: float) -> None:
    width, height = size
    corner = (centre[0] - width / 2, centre[1] - height / 2)
    style = f"round,pad=0,rounding_size={rounding}"
    axes.add_patch(
        FancyBboxPatch(
            corner, width, height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=0.9
        )
    )


def _text(axes: Axes, text: str, centre: tuple[float, float], font: FontProperties) -> None:
    axes.text(*centre, text, fontproperties=font, ha="center", va="center_baseline")


def _heading(axes: Axes, text: str, place, font: FontProperties, align: str) -> None:
    # A title is the user's; a dollar sign in it is a dollar sign.
    axes.text(*place, text, fontproperties=font, ha=align, va="center", parse_math=False)


def _dot(graphs: Sequence[CellGraph], title: str | None) -> str:
    """The graphs in Graphviz' language."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    lines = ["digraph genotype {", "  rankdir=LR;", "  newrank=true;"]
    if title:
        lines.append(f"  labelloc=t; label={quoted(title)};")
    lines.append('  node [shape=box, style="rounded,filled", fontname="Helvetica"];')
    lines.append('  edge [fontname="Helvetica", fontsize=11];')
    for number, graph in enumerate(graphs):
        lines.append(f"  subgraph cluster_{number} {{")
        lines.append(f"    label={quoted(graph.name)};")
        for index, (name, role) in enumerate(graph.vertices):
            lines.append(f'    v{number}_{index} [label="{name}", fillcolor="{FILLS[role]}"];')
        for source, target, primitive in graph.links:
            label = f" [label={quoted(primitive)}]" if primitive else f' [color="{CONCAT_COLOUR}"]'
            lines.append(f"    v{number}_{source} -> v{number}_{target}{label};")
        lines.append("  }")
    return "\n".join([*lines, "}", ""])
