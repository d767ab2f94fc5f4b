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
_DICTIONARY = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
# The only classes of features that are made, with their fields in tensorflow-datasets' message.
_KINDS = {
    "tensorflow_datasets.core.features.image_feature.Image": "image",
    "tensorflow_datasets.core.features.class_label_feature.ClassLabel": "classLabel",
}
_MOST_LISTED = 20
_LARGEST_RECORD = 16 * 2**20


def default_folder() -> str:
    """The default folder of tensorflow-datasets: TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def open_prepared(name: str, data_dir: str | os.PathLike | None = None):
    """Opens a prepared image classification data set without loading any of its images.

    Nothing that the folder names is imported: tensorflow-datasets would import whatever module
    features.json or dataset_info.json give for a feature, so that both are read here, and only the
    image and the label are passed on to it.

    Args:
        name: `name`, `name:version`, `name/configuration` or `name/configuration:version`, as in
            tensorflow-datasets. Without a version the newest prepared one is taken.
        data_dir: The folder given to tensorflow-datasets as `data_dir`, local or remote (gs://...);
            None for its default.

    Returns:
        A `tfds.core.DatasetBuilder` with these two features, and their names: (image, label).

    Raises:
        InputError: Unknown name, absent or unreadable data, several configurations to choose
            from, or features that are not an image and a class label.
    """
    from tensorflow_datasets.core import read_only_builder

    folder = _version_folder(name, data_dir)
    try:
        record = _read_record(folder)
        features = _read_features(folder)
        keys = tuple(item.feature_key for item in record.supervised_keys.tuple.items)
        keys = keys or ("image", "label")
        if [features[key][0] if key in features else None for key in keys] != [*_KINDS]:
            raise _not_classification(name, folder, keys, features)
        record.features.python_class_name = _DICTIONARY
        for key in keys:
            record.features.features_dict.features[key].CopyFrom(features[key][1])
        _read_small(os.path.join(folder, f"{keys[1]}.labels.txt"), optional=True)
        return read_only_builder.ReadOnlyBuilder(folder, info_proto=record), keys
    except InputError:
        raise
    except Exception as error:  # Whatever a damaged folder provokes, the mending is the same.
        raise unreadable(name, folder, error) from error


def _read_small(path: str, optional: bool = False) -> str:
    if optional and not tf.io.gfile.exists(path):
        return ""
    with tf.io.gfile.GFile(path) as file:
        text = file.read(_LARGEST_RECORD + 1)
    if len(text) > _LARGEST_RECORD:
        raise ValueError(f"{path} is larger than {_LARGEST_RECORD} bytes")
    return text


def _read_record(folder: str):
    """dataset_info.json as tensorflow-datasets' message.

    Raises:
        ValueError: It is too large, no such record, or its files would lie outside the folder.
    """
    from google.protobuf import json_format
    from tensorflow_datasets.core.proto import dataset_info_pb2

    record = json_format.Parse(
        _read_small(os.path.join(folder, _RECORD)), dataset_info_pb2.DatasetInfo()
    )
    names = [record.name, record.file_format]
    for split in record.splits:
        names += [split.name, split.filepath_template]
    for name in names:
        if "/" in name or "\\" in name:
            raise ValueError(f"its record names files outside its folder: {name[:100]!r}")
    record.ClearField("features")
    record.ClearField("module_name")
    return record


def _read_features(folder: str) -> dict:
    """The class of each feature, and for an image and a class label its description.

    Raises:
        ValueError: features.json is too large, no JSON, or not of that form.
    """
    value = json.loads(_read_small(os.path.join(folder, _FEATURES)))
    name, content = _class_and_content(value, "featuresDict")
    if name != _DICTIONARY:
        raise ValueError(f"its features are of the class {name!r}, which is not imported")
    if "type" not in value or "proto_cls" in value:
        content = content["features"]
    return {key: _feature(feature) for key, feature in content.items()}


def _class_and_content(value: dict, field: str) -> tuple[str, dict]:
    """Of a feature in the present form, or in that before version 4.5 of tensorflow-datasets."""
    if "type" in value:
        content = value["content"]
        return value["type"], json.loads(content) if isinstance(content, str) else content
    return value.get("pythonClassName"), value.get(field, {})


def _feature(value: dict) -> tuple:
    from google.protobuf import json_format
    from tensorflow_datasets.core.proto import feature_pb2

    name, _ = _class_and_content(value, "")
    if name not in _KINDS:
        return str(name), None
    field = _KINDS[name]
    _, content = _class_and_content(value, field)
    if "type" in value and "proto_cls" not in value:
        content = dict(content)
        if "shape" in content:
            sizes = [-1 if size is None else size for size in content["shape"]]
            content["shape"] = {"dimensions": sizes}
    feature = feature_pb2.Feature(python_class_name=name)
    message = feature.image if field == "image" else feature.class_label
    json_format.ParseDict(content, message, ignore_unknown_fields=True)
    message.SetInParent()
    return name, feature


def unreadable(name: str, folder: object, error: Exception) -> InputError:
    """The answer to a damaged data set."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return InputError(
        f"Data set {name!r} in {folder} cannot be read ({reason}): delete that folder and fetch "
        "the data set again."
    )


def _not_classification(name: str, folder: str, keys: tuple, features: dict) -> InputError:
    """Says which feature has which type, and what is expected."""

    def kind(key):
        return features[key][0].rpartition(".")[2] if key in features else "not there"

    found = ", ".join(f"{key!r} is {kind(key)}" for key in keys)
    others = ", ".join(f"{key!r}: {kind(key)}" for key in sorted(features) if key not in keys)
    return InputError(
        f"Data set {name!r} in {folder} is not image classification: expected an Image and a "
        f"ClassLabel (whole numbers that count the classes from 0), found that {found[:300]}"
        f"{f'; other features: {others[:300]}' if others else ''}. Prepare it with "
        "tfds.features.Image and tfds.features.ClassLabel."
    )


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


def _listing(root: str) -> list[str]:
    """The data sets that are prepared in a folder, with their configurations."""
    found = _prepared(root, "*/*") + _prepared(root, "*/*/*")
    return sorted({os.path.relpath(os.path.dirname(folder), root) for folder in found})


def _shown(root: str, names: list[str]) -> str:
    if not names:
        return "nothing is prepared there" if tf.io.gfile.isdir(root) else "there is no such folder"
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


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
    there = _listing(root)
    if base not in known:
        near = difflib.get_close_matches(path, [*there, "digits", *known], n=4)
        suggestion = f"; near matches: {', '.join(near)}" if near else ""
        return InputError(
            f"Unknown data set {path!r}. Known: digits (built in), the image classification data "
            f"sets of tensorflow-datasets, such as cifar10, and what is prepared in {given}: "
            f"{_shown(root, there)}{suggestion}."
        )
    where = f"in {given} ({'prepared there: ' if there else ''}{_shown(root, there)})"
    argument = "" if given == default_folder() else f", data_dir={given!r}"
    full_name = f"{path}:{version}" if version else path
    # Not the program `tfds build`: it needs apache_beam, which tensorflow-datasets does not
    # require.
    return InputError(
        f"Data set {full_name!r} was not found {where}; give the folder that has it as data_dir, "
        f'or fetch it with: python -c "import tensorflow_datasets as tfds; '
        f'tfds.builder({full_name!r}{argument}).download_and_prepare()"'
    )
