"""What all pictures share: accepted formats, colours of primitives, and how a figure is saved."""

import io
import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from darts_tf import files
from darts_tf.errors import InputError

FORMATS = (".svg", ".png", ".pdf")

COLOURS = {
    "none": "#9a9a9a",
    "max_pool_3x3": "#b5530a",
    "avg_pool_3x3": "#e69f00",
    "skip_connect": "#3d3d3d",
    "sep_conv_3x3": "#0072b2",
    "sep_conv_5x5": "#56b4e9",
    "sep_conv_7x7": "#1b3b6f",
    "dil_conv_3x3": "#7b3294",
    "dil_conv_5x5": "#c274b5",
    "conv_7x1_1x7": "#00795c",
    "tanh": "#0072b2",
    "relu": "#b5530a",
    "sigmoid": "#7b3294",
    "identity": "#3d3d3d",
}
"""One colour per primitive in all pictures; kin are near each other, light and dark."""

OTHER_COLOUR = "#00795c"
"""The colour of a primitive that is not in `COLOURS`."""


def check_format(path: str | os.PathLike[str], formats: tuple[str, ...] = FORMATS) -> str:
    """The suffix of a picture's path, in lower case.

    Raises:
        InputError: It is not one of `formats`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in formats:
        raise InputError(
            f"The suffix of a picture chooses its format, one of {', '.join(formats)}. "
            f"Received: {os.fspath(path)!r}."
        )
    return suffix


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure; the same figure gives the same SVG.

    Raises:
        InputError: The file cannot be written, or its suffix is not in `FORMATS`.
    """
    suffix = check_format(path)
    metadata = {"Date": None} if suffix == ".svg" else None
    # Text stays text in SVG, to be found and edited; a fixed salt makes its identifiers repeat.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "darts_tf"}):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], metadata=metadata)
    files.write(path, content.getvalue())
