"""The flags that name image data, and the data they name."""

import pathlib

from absl import flags

from darts_tf import reading
from darts_tf.bin import common
from darts_tf.errors import InputError

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
    description = {
        "mean": list(streams.statistics.mean),
        "standard_deviation": list(streams.statistics.std),
        "class_names": list(streams.class_names),
    }
    common.write_json(folder / DESCRIPTION, description)


def load_description(folder: pathlib.Path) -> dict:
    """Reads data.json: `mean` and `standard_deviation` by channel, and `class_names`.

    Raises:
        InputError: It cannot be read, or does not hold these.
    """
    path, remedy = folder / DESCRIPTION, "Train again to make it anew."
    found = reading.read_object(path, "data description", remedy)
    mean, deviation, names = (
        found.get(name) for name in ("mean", "standard_deviation", "class_names")
    )
    if not (
        _are_numbers(mean)
        and _are_numbers(deviation)
        and min(deviation) > 0
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
    ):
        raise InputError(
            f"Data description {path} cannot be used: it must hold lists of numbers, mean and "
            f"standard_deviation (above 0), and class_names, a list of text. {remedy}"
        )
    return found


def _are_numbers(value: object) -> bool:
    """Whether it is a list of at least one number that float32 can hold."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(number) in (int, float) and abs(number) < 1e38 for number in value)
    )
