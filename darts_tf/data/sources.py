"""Image data sets by name, in memory: the built-in digits and those of tensorflow-datasets.

CIFAR-10, CIFAR-100 and data sets like them fit in memory as uint8; ImageNet does not, see
`imagenet`.
"""

import dataclasses
import math
import os

import keras
import numpy as np

from darts_tf.data.normalization import normalization, published_normalization
from darts_tf.data.prepared import image_and_label, open_prepared, unreadable
from darts_tf.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray]

# A constant and not the run's seed: the accuracy of two runs is only comparable on the same test
# images.
_DIGITS_SPLIT_SEED = 20190506
# Images read at a time, a compromise between calls and memory.
_READ_BATCH = 500


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """One data set in memory. N differs between the parts; the image size does not.

    Attributes:
        name: As given to `load_images`.
        train_images: uint8 (N, H, W, C), 0..255.
        train_labels: int32 (N,), 0..number of classes - 1.
        validation_images: The data set's own validation part, uint8 (N, H, W, C), or None.
        validation_labels: int32 (N,), or None.
        test_images: uint8 (N, H, W, C).
        test_labels: int32 (N,).
        class_names: The classes in the order of the labels.
        normalization: What a network begins with: the published mean and deviation, or those of
            the training images.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray | None
    validation_labels: np.ndarray | None
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    normalization: keras.layers.Normalization

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return self.train_images.shape[1:]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def search_halves(self, train_portion: float = 0.5) -> tuple[Arrays, Arrays]:
        """The (images, labels) for the weights and those for the architecture parameters.

        A data set with a validation part of its own (`digits`) uses it, whatever `train_portion`
        says; of any other the training images are divided by `search_split`.

        Args:
            train_portion: The share of the weights, in (0, 1).

        Raises:
            InputError: See `search_split`.
        """
        if self.validation_images is not None:
            return (
                (self.train_images, self.train_labels),
                (self.validation_images, self.validation_labels),
            )
        return search_split(self.train_images, self.train_labels, train_portion)


def search_split(
    images: np.ndarray, labels: np.ndarray, train_portion: float = 0.5
) -> tuple[Arrays, Arrays]:
    """Divides training data in stored order: the first floor(train_portion * N), and the rest.

    Published order (code of the authors): no shuffling. For CIFAR-10 that means the file order
    there and the order of tensorflow-datasets here, which was shuffled once when the data set was
    prepared.

    Args:
        images: (N, ...).
        labels: (N, ...).
        train_portion: The share of the weights, in (0, 1).

    Returns:
        ((images, labels) for the weights, (images, labels) for the architecture parameters); views.

    Raises:
        InputError: The portion is outside (0, 1), or one of the two parts would be empty.
    """
    if not 0.0 < train_portion < 1.0:
        raise InputError(
            f"train_portion must lie between 0 and 1, both excluded; received {train_portion}."
        )
    count = math.floor(train_portion * len(images))
    if count == 0 or count == len(images):
        raise InputError(
            f"train_portion {train_portion} of {len(images)} training images leaves one part of "
            "the search empty: take more images or another portion."
        )
    return (images[:count], labels[:count]), (images[count:], labels[count:])


def load_images(
    name: str, data_dir: str | os.PathLike | None = None, *, limit: int | None = None
) -> ImageData:
    """Loads a data set into memory; never downloads.

    Args:
        name: `digits` (built in: 1,797 grey 8x8 images, 10 classes, divided 60 % / 20 % / 20 % by
            class), or an image classification data set of tensorflow-datasets such as `cifar10`,
            `cifar100`, `mnist` or `cifar10:3.0.2`.
        data_dir: The folder where tensorflow-datasets keeps its data; None for its default. Unused
            by `digits`.
        limit: Keep only the first so many training images (or all, if there are fewer), for trials.
            The other parts stay whole.

    Returns:
        The data. Where tensorflow-datasets has a train and a validation part but no test part, the
        validation part serves as test, and there is no validation part.

    Raises:
        InputError: Unknown, absent, unreadable or unsuitable data set (not image classification,
            several image sizes, ImageNet), or `limit` below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be 1 image or more, or None for all; received {limit}.")
    if name == "digits":
        return _digits(limit)
    base = name.split(":")[0].split("/")[0]
    if base == "imagenet2012":
        raise InputError(
            "Data set 'imagenet2012' does not fit in memory: stream it with imagenet_streams "
            "instead."
        )
    builder = open_prepared(name, data_dir)
    keys = image_and_label(builder)
    splits = builder.info.splits
    if "train" not in splits or not {"test", "validation"} & set(splits):
        raise InputError(
            f"Data set {name!r} needs a split 'train' and a split 'test' or 'validation'; it has: "
            f"{', '.join(sorted(splits)) or 'none'}."
        )
    train = _read(builder, name, keys, "train", limit)
    own_validation = (None, None)
    test_split = "test" if "test" in splits else "validation"
    if {"test", "validation"} <= set(splits):
        own_validation = _read(builder, name, keys, "validation")
    test = _read(builder, name, keys, test_split)
    for part in (own_validation, test):
        if part[0] is not None and part[0].shape[1:] != train[0].shape[1:]:
            raise _sizes(name, train[0].shape[1:], part[0].shape[1:])
    return ImageData(
        name,
        *train,
        *own_validation,
        *test,
        class_names=tuple(builder.info.features[keys[1]].names),
        normalization=published_normalization(base) or normalization(train[0]),
    )


def _digits(limit: int | None) -> ImageData:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # Stored in 17 grey levels, 0..16.
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=_DIGITS_SPLIT_SEED
    )
    # A quarter of the remaining 80 % is 20 % of all.
    train, validation = train_test_split(
        rest, test_size=0.25, stratify=labels[rest], random_state=_DIGITS_SPLIT_SEED
    )
    train = train[:limit]
    return ImageData(
        "digits",
        images[train],
        labels[train],
        images[validation],
        labels[validation],
        images[test],
        labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
        normalization=normalization(images[train]),
    )


def _read(
    builder, name: str, keys: tuple[str, str], split: str, limit: int | None = None
) -> Arrays:
    """All or the first `limit` examples of a split, in stored order."""
    import tensorflow_datasets as tfds

    count = builder.info.splits[split].num_examples
    count = count if limit is None else min(limit, count)
    image_key, label_key = keys
    declared = builder.info.features[image_key].shape
    images = labels = None
    done = 0
    try:
        dataset = builder.as_dataset(
            split=f"{split}[:{count}]",
            # One file after the other: the stored order, on any number of processors.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
        dataset = dataset.map(lambda example: (example[image_key], example[label_key]))
        # Images whose sizes are not declared may still turn out to have one size: one by one.
        dataset = dataset.batch(1 if None in declared else _READ_BATCH)
        for batch, batch_labels in dataset.as_numpy_iterator():
            if images is None:
                images = np.empty((count, *batch.shape[1:]), batch.dtype)
                labels = np.empty(count, np.int32)
            if batch.shape[1:] != images.shape[1:]:
                raise _sizes(name, images.shape[1:], batch.shape[1:])
            images[done : done + len(batch)] = batch
            labels[done : done + len(batch)] = batch_labels
            done += len(batch)
    except InputError:
        raise
    except Exception as error:  # Also what does not fit into the memory that a record asks for.
        raise unreadable(name, builder.data_dir, error) from error
    if not done:
        raise InputError(f"Split {split!r} of data set {name!r} must hold images; found no images.")
    # A damaged record of the number of examples must not leave rows of chance in the arrays.
    images, labels = images[:done], labels[:done]
    classes = len(builder.info.features[label_key].names)
    if images.dtype != np.uint8 or labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"Split {split!r} of data set {name!r} must hold images of 8 bits a channel with "
            f"labels from 0 to {classes - 1}; found {images.dtype} images, labels from "
            f"{labels.min()} to {labels.max()}."
        )
    return images, labels


def _sizes(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> InputError:
    return InputError(
        f"Images of data set {name!r} must all have one size to be held in memory; found "
        f"{'x'.join(map(str, one))} and {'x'.join(map(str, other))}: resize them when preparing it."
    )
