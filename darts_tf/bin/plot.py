"""Draws the cells of a genotype, or the architecture parameters of a search over its epochs.

python -m darts_tf.bin.plot --genotype=DARTS_V2 --output=cell.svg
python -m darts_tf.bin.plot --alphas=WORKDIR/alphas.npz --output=alphas.png
"""

import sys

from absl import flags

from darts_tf.bin import common
from darts_tf.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_string(
        "genotype", None, "A published genotype, a file or its text.", flag_values=values
    )
    flags.DEFINE_string("alphas", None, "The alphas.npz that a search writes.", flag_values=values)
    flags.DEFINE_enum(
        "kind", "cnn", ["cnn", "rnn"], "Where --genotype is looked up.", flag_values=values
    )
    flags.DEFINE_string("title", None, "A line above the cells of --genotype.", flag_values=values)
    flags.DEFINE_string(
        "output",
        None,
        "The picture: a .svg, .png or .pdf file; for --genotype .dot too.",
        required=True,
        flag_values=values,
    )


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    given = [name for name in ("genotype", "alphas") if values[name].value is not None]
    if len(given) != 1:
        raise InputError(
            "Say what to draw with either --genotype or --alphas. "
            f"Received: {' and '.join(f'--{name}' for name in given) or 'neither'}."
        )
    from darts_tf import genotype
    from darts_tf.report import plots

    if values.alphas is not None:
        if values.title is not None:
            raise InputError("--title goes with --genotype. Received: --alphas and --title.")
        plots.plot_alphas(genotype.load_alphas(values.alphas), values.output)
    else:
        found = genotype.load_genotype(values.genotype, values.kind)
        plots.plot_genotype(found, values.output, values.title)
    print(f"picture     {values.output}")
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
