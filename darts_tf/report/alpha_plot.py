"""Pictures of a search: the weight of every primitive on every edge, epoch by epoch."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from darts_tf.errors import InputError
from darts_tf.genotype import CNN_PRIMITIVES, INPUT_NODES, RNN_PRIMITIVES, num_nodes_of
from darts_tf.report.figures import COLOURS, OTHER_COLOUR, check_format, save_figure

EPOCH = "epoch"
TITLES = {"normal": "Normal cell", "reduce": "Reduction cell", "recurrent": "Recurrent cell"}
PANEL = (1.5, 1.05)
DPI = 150


def plot_alphas(
    alphas: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    primitives: Sequence[str] | None = None,
) -> None:
    """Draws the softmax weights of each edge over the epochs, one panel per edge.

    Rows of panels are target nodes, columns are predecessors. The strongest primitive other than
    `none` at the end, which the derivation would choose on this edge, is drawn thicker.

    Args:
        alphas: Architecture parameters before the softmax by kind of cell, each of shape
            (epochs, edges, primitives): "normal" and "reduce", or "recurrent". An entry "epoch" of
            shape (epochs,) gives the numbers of the epochs; they count from 0 by default. The
            content of a run's alphas.npz is such a mapping.
        path: Where to write; the suffix chooses the format: .svg, .png or .pdf.
        primitives: The names of the columns; by default those published for the kind of cell.

    Raises:
        InputError: An unusable array, the suffix is another, or the file cannot be written.
    """
    check_format(path)
    save_figure(alphas_figure(alphas, primitives), path)


def alphas_figure(
    alphas: Mapping[str, np.ndarray], primitives: Sequence[str] | None = None
) -> Figure:
    """The figure that `plot_alphas` writes.

    Raises:
        InputError: An unusable array.
    """
    kinds = [name for name in alphas if name != EPOCH]
    if not kinds:
        raise InputError(
            "There are no alphas to draw. Expected entries such as 'normal' and 'reduce'. "
            f"Received: {', '.join(alphas) or 'none'}."
        )
    columns = {kind: _columns(kind, primitives) for kind in kinds}
    weights = {kind: _weights(kind, alphas[kind], len(columns[kind])) for kind in kinds}
    epochs = {kind: _epochs(alphas.get(EPOCH), kind, len(weights[kind])) for kind in kinds}
    nodes = {kind: _num_nodes(kind, weights[kind]) for kind in kinds}
    width = max(nodes[kind] + _num_inputs(kind) - 1 for kind in kinds) * PANEL[0] + 0.4
    heights = [nodes[kind] * PANEL[1] + 0.5 for kind in kinds]
    legend = 0.55
    figure = Figure(figsize=(max(width, 5.6), sum(heights) + legend), dpi=DPI, layout="constrained")
    parts = figure.subfigures(len(kinds) + 1, 1, height_ratios=[legend, *heights], squeeze=False)
    names = list(dict.fromkeys(name for kind in kinds for name in columns[kind]))
    _legend(parts[0, 0], names)
    for part, kind in zip(parts[1:, 0], kinds, strict=True):
        _grid(part, kind, weights[kind], epochs[kind], columns[kind])
    return figure


def _num_inputs(kind: str) -> int:
    return 1 if kind == "recurrent" else INPUT_NODES


def _columns(kind: str, primitives: Sequence[str] | None) -> tuple[str, ...]:
    if primitives is not None:
        return tuple(primitives)
    return RNN_PRIMITIVES if kind == "recurrent" else CNN_PRIMITIVES


def _weights(kind: str, alphas: np.ndarray, num_primitives: int) -> np.ndarray:
    """The softmax over the last axis of checked alphas."""
    values = np.asarray(alphas, dtype=np.float64)
    if values.ndim != 3 or values.shape[2] != num_primitives or not values.shape[0]:
        raise InputError(
            f"Alphas {kind!r} must have shape (epochs, edges, {num_primitives}), one column for "
            f"each primitive and at least one epoch. Received shape {values.shape}."
        )
    if not np.isfinite(values).all():
        epoch = np.argwhere(~np.isfinite(values))[0][0]
        raise InputError(
            f"Alphas {kind!r} must be finite. Received one that is not in row {epoch} of the "
            "epochs. The search diverged there."
        )
    exponentials = np.exp(values - values.max(axis=2, keepdims=True))
    return exponentials / exponentials.sum(axis=2, keepdims=True)


def _epochs(epochs: np.ndarray | None, kind: str, count: int) -> np.ndarray:
    if epochs is None:
        return np.arange(count)
    if np.shape(epochs) != (count,):
        raise InputError(
            f"'{EPOCH}' must number the {count} epochs of alphas {kind!r}. "
            f"Received shape {np.shape(epochs)}."
        )
    return np.asarray(epochs)


def _num_nodes(kind: str, weights: np.ndarray) -> int:
    try:
        return num_nodes_of(weights.shape[1], _num_inputs(kind))
    except InputError as error:
        raise InputError(f"Alphas {kind!r}: {error}") from error


def _style(name: str) -> dict[str, object]:
    return {
        "color": COLOURS.get(name, OTHER_COLOUR),
        "linestyle": "--" if name == "none" else "-",
    }


def _legend(part: SubFigure, names: Sequence[str]) -> None:
    handles = [Line2D([], [], linewidth=2, label=name, **_style(name)) for name in names]
    # Two rows of at most four names fit above the narrowest picture.
    columns = max(4, (len(names) + 1) // 2) if len(names) > 5 else len(names)
    part.legend(handles=handles, loc="center", ncols=columns, fontsize=8, frameon=False)


def _grid(part: SubFigure, kind: str, weights, epochs, primitives: Sequence[str]) -> None:
    num_inputs, num_nodes = _num_inputs(kind), _num_nodes(kind, weights)
    part.suptitle(TITLES.get(kind, kind), fontsize=10, fontweight="bold")
    # One scale for all, so that edges can be compared as the derivation compares them.
    panels = part.subplots(
        num_nodes, num_nodes + num_inputs - 1, sharex=True, sharey=True, squeeze=False
    )
    edge = 0
    for node, row in enumerate(panels):
        for predecessor, axes in enumerate(row):
            if predecessor >= node + num_inputs:
                axes.set_visible(False)
                continue
            _panel(axes, weights[:, edge], epochs, primitives)
            title = f"{_name(kind, predecessor)} → {_name(kind, node + num_inputs)}"
            axes.set_title(title, fontsize=7.5, pad=2)
            edge += 1
        row[0].set_ylabel("weight", fontsize=7)
    top = 1.05 * weights.max()
    panels[0, 0].set_ylim(0, top)
    for axes in panels[-1]:
        axes.set_xlabel("epoch", fontsize=7)


def _name(kind: str, node: int) -> str:
    if kind == "recurrent":
        return str(node)
    return ("$c_{k-2}$", "$c_{k-1}$")[node] if node < INPUT_NODES else str(node - INPUT_NODES)


def _panel(axes: Axes, weights: np.ndarray, epochs: np.ndarray, primitives: Sequence[str]) -> None:
    """Draws one edge: weights of shape (epochs, primitives)."""
    final = [
        -1.0 if name == "none" else weight
        for name, weight in zip(primitives, weights[-1], strict=True)
    ]
    chosen = int(np.argmax(final))
    for column, name in enumerate(primitives):
        axes.plot(
            epochs,
            weights[:, column],
            linewidth=2.2 if column == chosen else 0.9,
            zorder=3 if column == chosen else 2,
            # A single epoch has no line to show.
            marker="o" if len(epochs) == 1 else None,
            markersize=3,
            **_style(name),
        )
    axes.grid(color="#e6e6e6", linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=6.5, length=2)
    axes.spines[["top", "right"]].set_visible(False)
