"""Image data sets by name, in memory: the built-in digits and those of tensorflow-datasets.

CIFAR-10, CIFAR-100 and data sets like them fit in memory as uint8; ImageNet does not, see
`imagenet`.
"""

import dataclasses
import math
import os

import numpy as np

from darts_tf.data.augmentation import Statistics
from darts_tf.data.prepared import open_prepared, unreadable
from darts_tf.errors import InputError
from darts_tf.reading import check_memory

Arrays = tuple[np.ndarray, np.ndarray]

# CIFAR-10 and ImageNet: code of the authors (`_data_transforms_cifar10`, `train_imagenet.py`).
# CIFAR-100, which they did not use: the values usual among DARTS's successors.
PUBLISHED_STATISTICS = {
    "cifar10": Statistics(
        (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
    ),
    "cifar100": Statistics((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet2012": Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

# A constant and not the run's seed: the accuracy of two runs is only comparable on the same test
# images.
_DIGITS_SPLIT_SEED = 20190506
# Images read at a time, a compromise between calls and memory.
_READ_BATCH = 500
_READ_BYTES = 2**26
# Bytes of length and checksums around a record of TFRecord: no file holds more than size / 16.
_RECORD_BYTES = 16
_FEWER = "Take fewer images with limit (--limit), prepare them smaller, or free memory."


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
        statistics: For the normalisation.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray | None
    validation_labels: np.ndarray | None
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    statistics: Statistics

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


def channel_statistics(images: np.ndarray) -> Statistics:
    """Mean and standard deviation by channel of uint8 images (N, H, W, C), as pixels in [0, 1].

    A constant channel has no scale; its standard deviation is set to 1/255, one grey level.

    Args:
        images: uint8 (N, H, W, C).
    """
    levels = np.arange(256) / 255.0
    mean, std = [], []
    # A histogram is exact and needs no floating point copy of the images.
    for channel in range(images.shape[-1]):
        # In blocks: bincount makes integers of 8 bytes of what it counts.
        counts = sum(
            np.bincount(images[i : i + _READ_BATCH, ..., channel].ravel(), minlength=256)
            for i in range(0, len(images), _READ_BATCH)
        )
        share = counts / images[..., channel].size
        centre = float(share @ levels)
        mean.append(centre)
        std.append(max(math.sqrt(float(share @ (levels - centre) ** 2)), 1 / 255))
    return Statistics(tuple(mean), tuple(std))


def _statistics(name: str, images: np.ndarray) -> Statistics:
    """The published ones of a data set of that very name (any version), or those of the images."""
    published = PUBLISHED_STATISTICS.get(name.split(":")[0])
    if published is not None and len(published.mean) == images.shape[-1]:
        return published
    return channel_statistics(images)


def is_imagenet(name: str) -> bool:
    """Whether a name is that of ImageNet (2012) or a part of it, which is streamed from disk."""
    return name.startswith("imagenet2012")


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
    if is_imagenet(name):
        raise InputError(
            f"Data set {name!r} does not fit in memory: stream it with imagenet_streams instead."
        )
    builder, keys = open_prepared(name, data_dir)
    splits = builder.info.splits
    if "train" not in splits or not {"test", "validation"} & set(splits):
        raise InputError(
            f"Data set {name!r} needs a split 'train' and a split 'test' or 'validation'; it has: "
            f"{', '.join(sorted(splits)) or 'none'}."
        )
    test_split = "test" if "test" in splits else "validation"
    shape = builder.info.features[keys[0]].shape
    if None not in shape:
        used = {"train", "validation", "test"} & set(splits)
        counts = [_count(builder, split, limit if split == "train" else None) for split in used]
        _check_memory(name, sum(counts), shape)
    train = _read(builder, name, keys, "train", limit)
    own_validation = (None, None)
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
        statistics=_statistics(name, train[0]),
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
        statistics=channel_statistics(images[train]),
    )


def _read(
    builder, name: str, keys: tuple[str, str], split: str, limit: int | None = None
) -> Arrays:
    """All or the first `limit` examples of a split, in stored order."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    count = _count(builder, split, limit)
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
        largest = 1 if None in declared else _READ_BYTES // max(math.prod(declared), 1)
        dataset = dataset.batch(min(max(largest, 1), _READ_BATCH))
        for batch, batch_labels in dataset.as_numpy_iterator():
            if images is None:
                _check_memory(name, count, batch.shape[1:])
                images = np.empty((count, *batch.shape[1:]), batch.dtype)
                labels = np.empty(count, np.int32)
            if batch.shape[1:] != images.shape[1:]:
                raise _sizes(name, images.shape[1:], batch.shape[1:])
            images[done : done + len(batch)] = batch
            labels[done : done + len(batch)] = batch_labels
            done += len(batch)
    except InputError:
        raise
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise InputError(
            f"Data set {name!r} does not fit in memory, into which it is read whole. {_FEWER}"
        ) from error
    except Exception as error:
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


def _count(builder, split: str, limit: int | None) -> int:
    """The examples to be read: no more than declared, asked for, or than the files can hold."""
    import tensorflow as tf

    info = builder.info.splits[split]
    stored = 0
    for path in info.filepaths:
        # Reading tells of a file that is missing, and names it.
        stored += tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else 0
    count = min(info.num_examples, stored // _RECORD_BYTES)
    return count if limit is None else min(limit, count)


def _check_memory(name: str, count: int, shape: tuple[int, ...]) -> None:
    check_memory(
        count * math.prod(shape),
        f"Data set {name!r}: {count:,} images of {'x'.join(map(str, shape))}",
        _FEWER,
    )


def _sizes(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> InputError:
    return InputError(
        f"Images of data set {name!r} must all have one size to be held in memory; found "
        f"{'x'.join(map(str, one))} and {'x'.join(map(str, other))}: resize them when preparing it."
    )
