"""Pictures: the files that are asked for, the labels in them, and nothing drawn over anything."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.transforms import Bbox

from darts_tf.errors import InputError
from darts_tf.genotype import Genotype, RecurrentGenotype, derive, zoo
from darts_tf.report.alpha_plot import alphas_figure
from darts_tf.report.cell_plot import cell_graphs, genotype_figure
from darts_tf.report.layout import Link, layered_layout
from darts_tf.report.plots import plot_alphas, plot_genotype

STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml", ".dot": b"digraph"}


def random_genotype(seed: int, inputs_per_node: int) -> Genotype:
    source = np.random.default_rng(seed)
    rows = (14, 20)
    return derive(*(source.normal(size=(n, 8)) for n in rows), inputs_per_node=inputs_per_node)


DRAWN = {
    f"{kind}-{name}": zoo.genotype(name, kind)
    for kind in ("cnn", "rnn")
    for name in zoo.names(kind)
    if name != "DARTS"
}
DRAWN |= {f"random-{inputs}-inputs": random_genotype(inputs, inputs) for inputs in (1, 3, 5)}
SMALLEST = Genotype([[("skip_connect", 0)]], [2], [[("conv_7x1_1x7", 1)]], [2])
DRAWN["smallest"] = SMALLEST
DRAWN["chain"] = RecurrentGenotype([("tanh", node) for node in range(12)], [12])


@pytest.mark.parametrize("genotype", DRAWN.values(), ids=DRAWN)
def test_no_label_node_or_line_covers_another(genotype):
    title = "A title of the picture"
    figure = genotype_figure(genotype, title)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.axes[0]
    texts = [text.get_window_extent(renderer) for text in axes.texts]
    assert_disjoint(texts)
    page = figure.bbox
    assert all(page.containsx(box.x1) and page.containsy(box.y1) for box in texts)
    assert all(page.containsx(box.x0) and page.containsy(box.y0) for box in texts)

    boxes = [p.get_path() for p in axes.patches if isinstance(p, FancyBboxPatch)]
    boxes = [path.get_extents() for path in boxes]
    assert_disjoint(boxes)
    num_links = sum(len(graph.links) for graph in cell_graphs(genotype))
    labels = [link[2] for graph in cell_graphs(genotype) for link in graph.links if link[2]]
    assert len(boxes) == len(labels) + sum(len(g.vertices) for g in cell_graphs(genotype))

    lines = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(lines) == num_links + len(labels)
    headings = {title, "Normal cell", "Reduction cell", "Recurrent cell"}
    for text, extent in zip(axes.texts, texts, strict=True):
        if text.get_text() not in headings:
            extent = extent.transformed(axes.transData.inverted())
            holding = [box for box in boxes if box.contains(*extent.get_points().mean(axis=0))]
            assert len(holding) == 1 and abs(extent.width) < holding[0].width

    # The shape of each line as given, before an arrowhead takes a piece of its end.
    for line in lines:
        polygon = np.concatenate(line._path_original.to_polygons(closed_only=False))
        along = np.concatenate([np.linspace(a, b, 9) for a, b in itertools.pairwise(polygon)])
        for box in boxes:
            inner = Bbox.from_extents(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)
            inside = (along > inner.min) & (along < inner.max)
            assert not inside.all(axis=1).any()


def assert_disjoint(boxes) -> None:
    for one, other in itertools.combinations(boxes, 2):
        assert not (
            one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1
        ), (one, other)


@pytest.mark.parametrize("suffix", STARTS)
@pytest.mark.parametrize("genotype", [zoo.genotype("DARTS"), zoo.genotype("DARTS", "rnn")])
def test_the_suffix_chooses_the_format(genotype, suffix, tmp_path):
    path = tmp_path / f"cell{suffix.upper()}"
    plot_genotype(genotype, path, title="Mine")
    assert path.read_bytes().startswith(STARTS[suffix])


def test_the_svg_has_every_label_as_text_and_is_always_the_same(tmp_path):
    genotype = zoo.genotype("AmoebaNet")
    for name in ("one.svg", "two.svg"):
        plot_genotype(genotype, tmp_path / name, title='A & "B" for $5 and $6')
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    for reduction in (False, True):
        for primitive, _, _ in genotype.edges(reduction):
            assert f">{primitive}</text>" in text
    for label in ("Normal cell", "Reduction cell", 'A &amp; "B" for $5 and $6', ">4</text>"):
        assert label in text  # fmt: skip
    assert text.count(">sep_conv_7x7</text>") == 2


def test_dot_lists_nodes_and_edges(tmp_path):
    path = tmp_path / "cell.dot"
    plot_genotype(SMALLEST, path, title='"Mine"')
    text = path.read_text()
    assert r'label="\"Mine\""' in text
    assert 'v0_0 -> v0_2 [label="skip_connect"];' in text
    assert 'v1_1 -> v1_2 [label="conv_7x1_1x7"];' in text
    assert 'v1_3 [label="c_{k}"' in text
    assert text.count("->") == 4 and text.count("{") - text.count("c_{") == text.count("  }\n") + 1


def test_the_graph_of_a_recurrent_cell_is_the_published_one():
    (graph,) = cell_graphs(RecurrentGenotype([("tanh", 0), ("relu", 1)], [2, 1]))
    assert [name for name, _ in graph.vertices] == ["x_{t}", "h_{t-1}", "0", "1", "2", "h_{t}"]
    assert graph.links == (
        (0, 2, None),
        (1, 2, None),
        (2, 3, "tanh"),
        (3, 4, "relu"),
        (3, 5, None),
        (4, 5, None),
    )


def test_a_layout_without_room_for_doubt_is_found():
    # 0 -> 2 and 1 -> 2, labelled: the inputs above each other, their labels in between.
    layout = layered_layout([(10, 10)] * 3, [Link(0, 2, (30, 8)), Link(1, 2, (20, 8))])
    (x0, y0), (x1, y1), (x2, y2) = layout.vertices
    (label_x, label_y), (other_x, other_y) = layout.labels
    assert x0 == x1 < label_x == other_x < x2
    assert y0 < y2 < y1 and label_y < y2 < other_y
    assert y0 + y1 == pytest.approx(2 * y2)
    assert [len(lines) for lines in layout.lines] == [2, 2]


def test_pictures_that_cannot_be_written_are_refused(tmp_path):
    genotype, alphas = zoo.genotype("DARTS"), {"normal": np.zeros((3, 14, 8))}
    with pytest.raises(InputError, match=r"one of .svg, .png, .pdf, .dot. Received: 'cell.jpg'."):
        plot_genotype(genotype, "cell.jpg")
    with pytest.raises(InputError, match=r"one of .svg, .png, .pdf. Received: 'alphas.dot'."):
        plot_alphas(alphas, "alphas.dot")
    for name in ("cell.png", "cell.dot"):
        with pytest.raises(InputError, match="Cannot write .* No such file or directory."):
            plot_genotype(genotype, tmp_path / "no" / name)
    with pytest.raises(InputError, match="Only a Genotype or a RecurrentGenotype .* Received: str"):
        plot_genotype("DARTS", tmp_path / "cell.svg")


# Alphas.


def walk(epochs: int, edges: int, primitives: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(epochs, edges, primitives)).cumsum(axis=0)


def test_alphas_have_one_panel_per_edge_with_their_softmax_weights():
    alphas = {"epoch": np.arange(5, 9), "normal": walk(4, 5, 8), "reduce": walk(4, 2, 8)}
    figure = alphas_figure(alphas)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [
        "$c_{k-2}$ → 0",
        "$c_{k-1}$ → 0",
        "$c_{k-2}$ → 1",
        "$c_{k-1}$ → 1",
        "0 → 1",
        "$c_{k-2}$ → 0",
        "$c_{k-1}$ → 0",
    ]
    drawn = np.array([line.get_ydata() for line in panels[4].lines])
    row = np.exp(alphas["normal"][:, 4])
    np.testing.assert_allclose(drawn, (row / row.sum(axis=1, keepdims=True)).T)
    np.testing.assert_array_equal(panels[4].lines[0].get_xdata(), [5, 6, 7, 8])


def test_the_primitive_that_would_be_chosen_is_thicker_and_never_none():
    alphas = np.zeros((2, 2, 8))
    alphas[-1, 0, [0, 4]] = 5, 1
    figure = alphas_figure({"normal": alphas})
    thick = [
        [column for column, line in enumerate(axes.lines) if line.get_linewidth() > 2]
        for axes in figure.axes
    ]
    assert thick == [[4], [1]]


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_alphas_are_written_from_the_file_of_a_run(suffix, tmp_path):
    np.savez(tmp_path / "alphas.npz", epoch=np.arange(3), recurrent=walk(3, 3, 5))
    path = tmp_path / f"alphas{suffix}"
    with np.load(tmp_path / "alphas.npz") as alphas:
        plot_alphas(alphas, path)
    assert path.read_bytes().startswith(STARTS[suffix])
    if suffix == ".svg":
        for name in ("none", "tanh", "relu", "sigmoid", "identity", "Recurrent cell"):
            assert f">{name}</text>" in path.read_text()


def test_alphas_of_one_epoch_and_of_other_primitives_are_drawn(tmp_path):
    path = tmp_path / "alphas.svg"
    plot_alphas({"normal": walk(1, 2, 2)}, path, primitives=["skip_connect", "my_conv"])
    assert ">my_conv</text>" in path.read_text()


@pytest.mark.parametrize(
    "alphas, words",
    [
        ({}, "There are no alphas to draw. .* Received: none."),
        ({"epoch": np.arange(3)}, "There are no alphas to draw. .* Received: epoch."),
        ({"normal": np.zeros((14, 8))}, r"Alphas 'normal' must have shape \(epochs, edges, 8\)"),
        ({"recurrent": np.zeros((1, 3, 8))}, r"\(epochs, edges, 5\), .* shape \(1, 3, 8\)."),
        ({"normal": np.zeros((0, 14, 8))}, "at least one epoch"),
        ({"reduce": np.zeros((1, 13, 8))}, "Alphas 'reduce': No cell has 13 edges."),
        ({"normal": np.full((1, 14, 8), np.nan)}, "must be finite. .* row 0 of the epochs"),
        (
            {"epoch": np.arange(2), "normal": np.zeros((3, 14, 8))},
            r"'epoch' must number the 3 epochs of alphas 'normal'. Received shape \(2,\).",
        ),
    ],
)
def test_alphas_that_cannot_be_drawn_are_refused(alphas, words, tmp_path):
    with pytest.raises(InputError, match=words):
        plot_alphas(alphas, tmp_path / "alphas.png")


def test_drawing_needs_no_display_and_leaves_pyplot_alone():
    code = "import sys, darts_tf.report.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
