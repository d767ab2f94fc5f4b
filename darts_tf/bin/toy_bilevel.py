"""Draws the paper's closed-form bilevel problem (figure 2): where descent ends for each xi.

python -m darts_tf.bin.toy_bilevel --flagfile=flags/toy_bilevel.flags --output=toy.png
"""

import math
import sys

from absl import flags

from darts_tf.bin import common
from darts_tf.errors import InputError
from darts_tf.search.orders import ORDERS

ROW = "{:>6}  {:>22}  {:>22}  {:>12}  {:>10}"
DIVERGED = 1e6


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_list(
        "xi",
        ["0", "0.2", "0.5", "0.7"],
        "Learning rates of the virtual step, separated by commas; the default are the paper's.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps",
        100,
        "Number of steps.",
        lower_bound=1,
        upper_bound=common.LARGEST_WHOLE,
        flag_values=values,
    )
    flags.DEFINE_float("learning_rate", 0.1, "Learning rate of alpha and of w.", flag_values=values)
    flags.DEFINE_enum("order", "second_exact", ORDERS, "Architecture gradient.", flag_values=values)
    flags.DEFINE_string(
        "output", "toy.png", "The picture: a .png, .svg or .pdf file.", flag_values=values
    )


def numbers(texts: list[str]) -> list[float]:
    """The values of --xi, each once.

    Raises:
        InputError: There is none, or one is no number from 0 on.
    """
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = [math.nan]
    if not found or not all(math.isfinite(xi) and xi >= 0 for xi in found):
        raise InputError(
            "--xi must be numbers, 0 or more, separated by commas, such as --xi=0,0.5. "
            f"Received: --xi={','.join(texts)}."
        )
    return list(dict.fromkeys(found))


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    chosen, rate = numbers(values.xi), values.learning_rate
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(
            f"--learning_rate must be a positive number. Received: --learning_rate={rate}."
        )
    from darts_tf.report import figures, toy_plot
    from darts_tf.search import toy

    figures.check_format(values.output)
    trajectories = {}
    print(
        ROW.format(
            "xi", "end point (alpha, w)", "fixed point (alpha, w)", "L_val there", "distance"
        )
    )
    for xi in chosen:
        path = trajectories[xi] = toy.trajectory(xi, values.steps, rate, rate, order=values.order)
        alpha, w = path.alpha[-1], path.w[-1]
        largest = max(abs(path.alpha).max(), abs(path.w).max())
        if not largest < DIVERGED:
            raise InputError(
                f"Descent diverges for xi={xi:g} at --learning_rate={rate:g}. Take a smaller one; "
                "the paper's values of xi converge at 0.1."
            )
        # The first order takes no virtual step, whatever xi is.
        fixed = toy.fixed_point(0.0 if values.order == "first" else xi)
        print(
            ROW.format(
                f"{xi:g}",
                f"({alpha:.6f}, {w:.6f})",
                f"({fixed:.6f}, {fixed:.6f})",
                f"{(fixed - 1) ** 2:.6f}",
                f"{math.hypot(alpha - fixed, w - fixed):.1e}",
            )
        )
    toy_plot.plot_toy(trajectories, values.output)
    print(f"picture     {values.output}")
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
