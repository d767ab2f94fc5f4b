"""Exports the network of a training run, for use without this package.

python -m darts_tf.bin.export --workdir=RUN --output=DIR [--formats=saved_model,tflite]
"""

import os
import pathlib
import sys

from absl import flags

from darts_tf import files
from darts_tf.bin import common, images, text
from darts_tf.errors import InputError, unknown_name

FORMATS = ("saved_model", "tflite")


def export(run: pathlib.Path, output: pathlib.Path, formats: list[str]) -> list[pathlib.Path]:
    """Writes each format below `output`; returns the paths.

    Args:
        run: The work folder of a finished training.
        output: A folder; made when needed.
        formats: Of "saved_model" (a folder) and "tflite" (a file made of it).

    Raises:
        InputError: The run is not finished or cannot be read, a format is not known, or something
            stands where a result would be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
    model, description = run / "model.keras", run / images.DESCRIPTION
    if (run / text.VOCABULARY).is_file():
        return _export_language_model(run, output, formats)
    for path in (model, description):
        if not path.is_file():
            raise InputError(
                f"{path} does not exist: {run} is no work folder of a finished training. Name "
                "one with --workdir, or finish the training by its own command."
            )
    import tensorflow as tf

    import darts_tf

    try:
        network = darts_tf.load_model(model, compile=False)
    except InputError as error:
        raise InputError(f"{run} cannot be read: {error} Train again to make it anew.") from error
    data = images.load_description(run)
    saved_model, lite = output / "saved_model", output / "model.tflite"
    if "tflite" in formats and os.path.lexists(lite):
        raise InputError(f"{lite} exists. Name another folder with --output.")
    written = [saved_model]
    try:
        darts_tf.export_saved_model(network, saved_model, data["class_names"])
        if "tflite" in formats:
            written.append(_write_tflite(saved_model, lite))
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"Cannot write to {output}: {reason}. Name another folder with --output."
        ) from error
    return written


def _export_language_model(
    run: pathlib.Path, output: pathlib.Path, formats: list[str]
) -> list[pathlib.Path]:
    if formats != ["saved_model"]:
        raise InputError(
            "A language model is exported as saved_model only: TensorFlow Lite lacks its table of "
            f"words. Received: --formats={','.join(formats)}."
        )
    model = run / "model.keras"
    if not model.is_file():
        raise InputError(
            f"{model} does not exist: {run} is no work folder of a finished training. Name "
            "one with --workdir, or finish the training by its own command."
        )
    import tensorflow as tf

    import darts_tf

    vocabulary = text.load_vocabulary(run)
    try:
        network = darts_tf.load_model(model, compile=False)
    except InputError as error:
        raise InputError(f"{run} cannot be read: {error} Train again to make it anew.") from error
    saved_model = output / "saved_model"
    try:
        darts_tf.export_language_model(network, saved_model, list(vocabulary.words))
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"Cannot write to {output}: {reason}. Name another folder with --output."
        ) from error
    return [saved_model]


def _write_tflite(saved_model: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=["serving_default"]
    )
    files.write(path, converter.convert())
    return path


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_string(
        "workdir", None, "Work folder of a training.", required=True, flag_values=values
    )
    flags.DEFINE_string("output", None, "Folder to write to.", required=True, flag_values=values)
    flags.DEFINE_list("formats", ["saved_model"], f"Of {', '.join(FORMATS)}.", flag_values=values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    for path in export(pathlib.Path(values.workdir), pathlib.Path(values.output), values.formats):
        print(f"written     {path}")
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
