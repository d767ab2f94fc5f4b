"""The flags that name image data, and the data they name."""

import pathlib

from absl import flags

from darts_tf import reading
from darts_tf.bin import common
from darts_tf.errors import InputError, unknown_name

CLASS_WEIGHTS = ("none", "balanced")
DESCRIPTION = "data.json"


def define_flags(values: flags.FlagValues) -> None:
    """Defines --dataset, --data_dir, --limit and --split."""
    flags.DEFINE_string(
        "dataset",
        "digits",
        "digits (built in), or an image-classification data set of tensorflow-datasets.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared tensorflow-datasets.", flag_values=values
    )
    flags.DEFINE_integer(
        "limit",
        None,
        "Use so many training examples only, for trials; --split says which.",
        lower_bound=2,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "split",
        "stratified",
        ["stratified", "published"],
        "How images are drawn for --limit and for the halves of a search: stratified by class, the "
        "same in every run; or published, the first ones in stored order, as the authors do.",
        flag_values=values,
    )


def load(values: flags.FlagValues):
    """Loads the data set: a `darts_tf.data.ImageData`."""
    from darts_tf import data

    return data.load_images(values.dataset, values.data_dir, limit=values.limit, split=values.split)


def check_size(image_data, layers: int) -> None:
    """Checks that the images are large enough for a network of so many cells.

    Raises:
        InputError: They are not.
    """
    from darts_tf.networks import skeleton

    plans = skeleton.cell_plans(layers, 1)
    skeleton.check_image_shape(image_data.image_shape, sum(plan.reduction for plan in plans))


def save_description(folder: pathlib.Path, streams) -> None:
    """Writes data.json: what an export must know of the data that a model was trained on."""
    common.write_json(folder / DESCRIPTION, {"class_names": list(streams.class_names)})


def load_description(folder: pathlib.Path) -> dict:
    """Reads data.json: `class_names`.

    Raises:
        InputError: It cannot be read, does not hold these, or is of a run whose network does not
            hold the normalisation.
    """
    path, remedy = folder / DESCRIPTION, "Train again to make it anew."
    found = reading.read_object(path, "data description", remedy)
    names = found.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"Data description {path} cannot be used: it must hold class_names, a list of text. "
            f"{remedy}"
        )
    if "mean" in found:
        raise InputError(
            f"The run in {folder} was trained by a version whose networks took images that the "
            "data had normalised, so that its model.keras does not know their scale. Repeat the "
            "command of the run, with --flagfile=flags.txt of its folder: it resumes from the last "
            "checkpoint and writes both anew."
        )
    return found


def check_class_weight(kind: str) -> None:
    """Raises InputError unless --class_weight is known."""
    if kind not in CLASS_WEIGHTS:
        raise unknown_name("--class_weight", kind, CLASS_WEIGHTS)


def weights_of_classes(kind: str, num_classes: int, *labels) -> list | None:
    """The weights of the examples of some sets, by their classes in all of these sets.

    Args:
        kind: Of `CLASS_WEIGHTS`.
        num_classes: The number of classes.
        *labels: Of each set, (N,).

    Returns:
        float32 (N,) for each set; None for no weights.
    """
    if kind == "none":
        return None
    import numpy as np

    from darts_tf import examples

    weights = examples.balanced(np.concatenate(labels), num_classes)
    table = examples.class_table(weights, num_classes)
    return [table[own] for own in labels]
