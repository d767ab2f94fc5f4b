"""Finds and opens image classification data sets that tensorflow-datasets has prepared on disk.

Nothing here reaches for the network: an absent data set is answered with the command that fetches
it. (The data set is opened from its folder and not through `tfds.builder`, which asks a remote
bucket about data sets that are absent. It has the side effect that a prepared folder of the user's
own works without its code.)
"""

import difflib
import json
import os
import re

import tensorflow as tf

from darts_tf.errors import InputError

_RECORD = "dataset_info.json"
_FEATURES = "features.json"
_NAME = re.compile(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*(:[\w.]+)?", re.ASCII)
_OWN_FEATURES = "tensorflow_datasets."
_LARGEST_RECORD = 16 * 2**20


def default_folder() -> str:
    """The default folder of tensorflow-datasets: TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def open_prepared(name: str, data_dir: str | os.PathLike | None = None):
    """Opens a prepared data set without loading any of it.

    Args:
        name: `name`, `name:version`, `name/configuration` or `name/configuration:version`, as in
            tensorflow-datasets. Without a version the newest prepared one is taken.
        data_dir: The folder given to tensorflow-datasets as `data_dir`, local or remote (gs://...);
            None for its default.

    Returns:
        A `tfds.core.DatasetBuilder`.

    Raises:
        InputError: Unknown name, absent or unreadable data, or several configurations to choose
            from.
    """
    import tensorflow_datasets as tfds

    folder = _version_folder(name, data_dir)
    try:
        _check_features(os.path.join(folder, _FEATURES))
        return tfds.builder_from_directory(folder)
    except Exception as error:  # Whatever a damaged folder provokes, the mending is the same.
        raise unreadable(name, folder, error) from error


def _check_features(path: str) -> None:
    """Refuses features of other packages: tensorflow-datasets imports what the file names.

    Raises:
        ValueError: It names one, is too large, or no JSON.
    """
    with tf.io.gfile.GFile(path) as file:
        text = file.read(_LARGEST_RECORD + 1)
    if len(text) > _LARGEST_RECORD:
        raise ValueError(f"{path} is larger than {_LARGEST_RECORD} bytes")
    left = [json.loads(text)]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            name = value.get("pythonClassName")
            if name is not None and not str(name).startswith(_OWN_FEATURES):
                raise ValueError(f"its features are of the class {name!r}, which is not imported")
            left += value.values()
        elif isinstance(value, list):
            left += value


def unreadable(name: str, folder: object, error: Exception) -> InputError:
    """The answer to a damaged data set."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return InputError(
        f"Data set {name!r} in {folder} cannot be read ({reason}): delete that folder and fetch "
        "the data set again."
    )


def image_and_label(builder) -> tuple[str, str]:
    """The names of the image and label features of an image classification data set.

    Args:
        builder: What `open_prepared` returns.

    Raises:
        InputError: The data set has no such features.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    names = builder.info.supervised_keys or ("image", "label")
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    found = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    if len(names) != 2 or not all(
        isinstance(found.get(name), kind) for name, kind in zip(names, kinds, strict=True)
    ):
        raise InputError(
            f"Data set {builder.name!r} is not image classification: expected an image and a class "
            f"label, found the features {', '.join(sorted(found))[:300] or features}."
        )
    return names[0], names[1]


def _version_folder(name: str, data_dir: str | os.PathLike | None) -> str:
    """The folder that holds the wanted version's dataset_info.json."""
    path, _, version = name.partition(":")
    given = os.fspath(data_dir) if data_dir is not None else default_folder()
    root = os.path.expanduser(given)
    if not _NAME.fullmatch(name) or ".." in name or len(name) > 200:
        raise InputError(
            f"A data set's name must look like cifar10 or cifar10:3.0.2; received {name[:200]!r}."
        )
    found = _prepared(root, f"{path}/{version or '*'}")
    if found:
        return max(found, key=_version_order)
    configurations = sorted(
        {os.path.basename(os.path.dirname(f)) for f in _prepared(root, f"{path}/*/*")}
    )
    if configurations and len(path.split("/")) == 1:
        raise InputError(
            f"Data set {path!r} in {given} has configurations: give one of "
            f"{', '.join(f'{path}/{c}' for c in configurations)}; received {name!r}."
        )
    raise _absent(path, version, given, root)


def _prepared(root: str, pattern: str) -> list[str]:
    try:
        found = tf.io.gfile.glob(os.path.join(root, pattern, _RECORD))
    except (tf.errors.OpError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The folder {root} of data sets cannot be read ({reason}). Name a folder on this "
            "machine, or a remote one that TensorFlow can reach."
        ) from error
    return [os.path.dirname(path) for path in found]


def _version_order(folder: str) -> tuple:
    parts = os.path.basename(folder).split(".")
    return tuple(int(part) if part.isdigit() else -1 for part in parts)


def _absent(path: str, version: str, given: str, root: str) -> InputError:
    """Unknown name, version not there, or nothing there: one sentence each."""
    import tensorflow_datasets as tfds

    base = path.split("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    others = [os.path.basename(folder) for folder in _prepared(root, f"{path}/*")]
    if others:
        return InputError(
            f"Data set {path!r} has no version {version} in {given}; prepared there: "
            f"{', '.join(sorted(others))}."
        )
    if base not in known:
        near = difflib.get_close_matches(base, ["digits", *known], n=4)
        suggestion = f"; near matches: {', '.join(near)}" if near else ""
        return InputError(
            f"Unknown data set {base!r}. Known: digits (built in) and the image classification "
            f"data sets of tensorflow-datasets, such as cifar10{suggestion}."
        )
    where = f"in {given}"
    if not tf.io.gfile.isdir(root):
        where += " (there is no such folder)"
    argument = "" if given == default_folder() else f", data_dir={given!r}"
    full_name = f"{path}:{version}" if version else path
    # Not the program `tfds build`: it needs apache_beam, which tensorflow-datasets does not
    # require.
    return InputError(
        f"Data set {full_name!r} was not found {where}; give the folder that has it as data_dir, "
        f'or fetch it with: python -c "import tensorflow_datasets as tfds; '
        f'tfds.builder({full_name!r}{argument}).download_and_prepare()"'
    )
