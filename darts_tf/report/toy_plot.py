"""The picture of the toy problem: descent over the validation loss (paper, figure 2)."""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from darts_tf.errors import InputError
from darts_tf.report.figures import check_format, save_figure
from darts_tf.search.toy import SOLUTION, START, Trajectory

SADDLE = (0.0, 2.0)
"""(alpha, w) where both derivatives of L_val are zero: a saddle, since L_val has no minimum."""

PATH_COLOURS = ("#0072b2", "#00795c", "#e69f00", "#7b3294", "#56b4e9", "#b5530a", "#3d3d3d")
CONSTRAINT_COLOUR = "#c1121f"
MARGIN = 0.35
DPI = 200


def plot_toy(trajectories: Mapping[float, Trajectory], path: str | os.PathLike[str]) -> None:
    """Draws trajectories over the surface L_val(w, alpha) = alpha w - 2 alpha + 1.

    Beside them it marks the start, the line w = alpha on which the weights are optimal for their
    architecture, the solution (1, 1) of the bilevel problem, and the saddle of L_val.

    Args:
        trajectories: By xi, the learning rate of the virtual step.
        path: Where to write; the suffix chooses the format: .svg, .png or .pdf.

    Raises:
        InputError: There is no trajectory, one is not finite, the suffix is another, or the file
            cannot be written.
    """
    check_format(path)
    save_figure(toy_figure(trajectories), path)


def toy_figure(trajectories: Mapping[float, Trajectory]) -> Figure:
    """The figure that `plot_toy` writes.

    Raises:
        InputError: There is no trajectory, or one is not finite.
    """
    if not trajectories:
        raise InputError("There is no trajectory to draw. Expected at least one, by its xi.")
    for xi, trajectory in trajectories.items():
        if not np.isfinite([trajectory.alpha, trajectory.w]).all():
            raise InputError(
                f"A trajectory must be finite. That of xi={xi:g} is not: it diverged. "
                "Take a smaller learning rate."
            )
    rows = -(-(len(trajectories) + 4) // 2)
    figure = Figure(figsize=(6.4, 5.4 + 0.2 * rows), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    limits = _limits(trajectories)
    _surface(figure, axes, *limits)
    for index, (xi, trajectory) in enumerate(trajectories.items()):
        _path(axes, xi, trajectory, PATH_COLOURS[index % len(PATH_COLOURS)])
    _constraint(axes, *limits)
    _points(axes, trajectories)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.set_xlabel(r"architecture parameter $\alpha$")
    axes.set_ylabel(r"weight $w$")
    # Below the surface, where it covers nothing.
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure


def _limits(trajectories: Mapping[float, Trajectory]) -> list[tuple[float, float]]:
    """The shown ranges of alpha and w."""
    marked = np.array([START, SOLUTION, SADDLE])
    ranges = []
    for column, name in enumerate(("alpha", "w")):
        values = [getattr(trajectory, name) for trajectory in trajectories.values()]
        values = np.concatenate([*values, marked[:, column]])
        margin = MARGIN * max(1.0, np.ptp(values) / 5)
        ranges.append((values.min() - margin, values.max() + margin))
    return ranges


def _surface(figure: Figure, axes: Axes, alphas, weights) -> None:
    alpha, w = np.meshgrid(np.linspace(*alphas, 241), np.linspace(*weights, 241))
    loss = alpha * w - 2 * alpha + 1
    # Light, so that the trajectories stand out; the darker the lower.
    filled = axes.contourf(alpha, w, loss, 24, cmap="bone", alpha=0.55)
    axes.contour(alpha, w, loss, 24, colors="white", linewidths=0.4, linestyles="solid")
    bar = figure.colorbar(filled, ax=axes, aspect=40, pad=0.02)
    bar.set_label(r"$L_{val}(w, \alpha) = \alpha w - 2\alpha + 1$", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))


def _constraint(axes: Axes, alphas, weights) -> None:
    ends = max(alphas[0], weights[0]), min(alphas[1], weights[1])
    axes.plot(
        ends,
        ends,
        color=CONSTRAINT_COLOUR,
        linestyle="--",
        linewidth=1.4,
        label=r"$w = \alpha$: weights optimal for $\alpha$",
        zorder=3,
    )


def _path(axes: Axes, xi: float, trajectory: Trajectory, colour: str) -> None:
    alpha, w = trajectory.alpha, trajectory.w
    axes.plot(
        alpha,
        w,
        color=colour,
        linewidth=1.4,
        marker="o",
        markersize=2.6,
        path_effects=[withStroke(linewidth=2.6, foreground="white")],
        label=rf"$\xi = {xi:g}$, ends at ({alpha[-1]:.3f}, {w[-1]:.3f})",
        zorder=4,
    )
    axes.plot(
        alpha[-1],
        w[-1],
        marker="s",
        markersize=7,
        color=colour,
        markeredgecolor="white",
        zorder=6,
    )


def _points(axes: Axes, trajectories: Mapping[float, Trajectory]) -> None:
    starts = {(t.alpha[0], t.w[0]) for t in trajectories.values()}
    style = {"linestyle": "none", "color": "black"}
    axes.plot(
        *zip(*starts, strict=True), marker="*", markersize=12, label="start", zorder=6, **style
    )
    axes.plot(
        *SOLUTION,
        linestyle="none",
        marker="o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor=CONSTRAINT_COLOUR,
        markeredgewidth=2,
        label="constrained optimum (1, 1):\nsolution of the bilevel problem",
        zorder=7,
    )
    axes.plot(
        *SADDLE,
        marker="X",
        markersize=8,
        label=r"stationary point (0, 2) of $L_{val}$ alone:" "\na saddle, for it has no minimum",
        zorder=6,
        **style,
    )
