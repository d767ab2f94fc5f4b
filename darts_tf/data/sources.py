"""Image data sets by name, in memory: the built-in digits and those of tensorflow-datasets.

CIFAR-10, CIFAR-100 and data sets like them fit in memory as uint8; ImageNet does not, see
`imagenet`.
"""

import dataclasses
import math
import os
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from darts_tf.data import splitting
from darts_tf.data.normalization import normalization, published_normalization
from darts_tf.data.prepared import open_prepared, unreadable
from darts_tf.data.splitting import Arrays
from darts_tf.errors import InputError, unknown_name, whole_number
from darts_tf.reading import check_memory

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
        normalization: What a network begins with: the published mean and deviation, or those of
            the training images.
        split: How the halves of a search are drawn: "stratified" by class, or "published", in
            stored order.
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
    split: Literal["stratified", "published"] = "stratified"

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
        says; of any other the training images are divided: by class with a fixed seed (see
        `split`), or in stored order (see `search_split`), as `split` says.

        Args:
            train_portion: The share of the weights, in (0, 1).

        Raises:
            InputError: The portion is outside (0, 1), or one of the two parts would be empty.
        """
        if self.validation_images is not None:
            return (
                (self.train_images, self.train_labels),
                (self.validation_images, self.validation_labels),
            )
        divide = search_split if self.split == "published" else splitting.split
        return divide(self.train_images, self.train_labels, train_portion)


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
    count = splitting.first_count(train_portion, len(images))
    return (images[:count], labels[:count]), (images[count:], labels[count:])


def _normalization(name: str, images: np.ndarray) -> keras.layers.Normalization:
    """The published one of a data set of that very name (any version), or that of the images."""
    published = published_normalization(name.split(":")[0])
    if published is not None and len(published.input_mean) == images.shape[-1]:
        return published
    return normalization(images)


def is_imagenet(name: str) -> bool:
    """Whether a name is that of ImageNet (2012) or a part of it, which is streamed from disk."""
    return name.startswith("imagenet2012")


def load_images(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    limit: int | None = None,
    split: Literal["stratified", "published"] = "stratified",
) -> ImageData:
    """Loads a data set into memory; never downloads.

    Args:
        name: `digits` (built in: 1,797 grey 8x8 images, 10 classes, divided 60 % / 20 % / 20 % by
            class), or an image classification data set of tensorflow-datasets such as `cifar10`,
            `cifar100`, `mnist` or `cifar10:3.0.2`.
        data_dir: The folder where tensorflow-datasets keeps its data; None for its default. Unused
            by `digits`.
        limit: Keep only so many training images (or all, if there are fewer), for trials. The other
            parts stay whole.
        split: How they are chosen, and how the halves of a search: "stratified", by class with a
            fixed seed, for which all labels are read; or "published", the first as stored. Training
            images without one of the classes are warned of.

    Returns:
        The data. Where tensorflow-datasets has a train and a validation part but no test part, the
        validation part serves as test, and there is no validation part.

    Raises:
        InputError: Unknown, absent, unreadable or unsuitable data set (not image classification,
            several image sizes, ImageNet), an unknown `split`, or `limit` below 1.
    """
    limit = limit if limit is None else whole_number("limit", limit)
    if split not in splitting.SPLITS:
        raise unknown_name("split", split, splitting.SPLITS)
    if name == "digits":
        return _digits(limit, split)
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
        counts = [_count(builder, part, limit if part == "train" else None) for part in used]
        _check_memory(name, sum(counts), shape)
    train = _read(builder, name, keys, "train", limit, split)
    class_names = tuple(builder.info.features[keys[1]].names)
    splitting.warn_of_absent(name, train[1], class_names)
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
        class_names=class_names,
        normalization=_normalization(name, train[0]),
        split=split,
    )


def _digits(limit: int | None, split: str) -> ImageData:
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
    if limit is not None:
        published = split == "published"
        train = train[:limit] if published else train[splitting.sample(labels[train], limit)]
    class_names = tuple(str(digit) for digit in range(10))
    splitting.warn_of_absent("digits", labels[train], class_names)
    return ImageData(
        "digits",
        images[train],
        labels[train],
        images[validation],
        labels[validation],
        images[test],
        labels[test],
        class_names=class_names,
        normalization=normalization(images[train]),
        split=split,
    )


def _read(
    builder,
    name: str,
    keys: tuple[str, str],
    split: str,
    limit: int | None = None,
    drawn: str = "published",
) -> Arrays:
    """The examples of a split in stored order: all, or `limit` of them, `drawn` as `SPLITS` say."""
    import tensorflow_datasets as tfds

    count = _count(builder, split, None)
    whole = limit is None or limit >= count
    count = count if whole else limit
    image_key, label_key = keys
    declared = builder.info.features[image_key].shape
    images = labels = None
    done = 0
    try:
        sampled = not whole and drawn == "stratified"
        dataset = builder.as_dataset(
            split=split if sampled else f"{split}[:{count}]",
            decoders={image_key: tfds.decode.SkipDecoding()} if sampled else None,
            # One file after the other: the stored order, on any number of processors.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
        if sampled:
            dataset = _sampled(dataset, builder.info.features[image_key], keys, limit)
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


def _sampled(
    dataset: tf.data.Dataset, feature, keys: tuple[str, str], limit: int
) -> tf.data.Dataset:
    """`limit` examples by class, in stored order; only their images are decoded."""
    image_key, label_key = keys
    labels = dataset.map(lambda example: example[label_key]).batch(_READ_BATCH)
    labels = np.concatenate(list(labels.as_numpy_iterator()))
    kept = np.zeros(len(labels), bool)
    kept[splitting.sample(labels, limit)] = True
    with tf.device("/CPU:0"):
        kept = tf.constant(kept)
    dataset = dataset.enumerate().filter(lambda number, example: kept[number])
    return dataset.map(
        lambda number, example: {**example, image_key: feature.decode_example(example[image_key])},
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _count(builder, split: str, limit: int | None) -> int:
    """The examples to be read: no more than declared, asked for, or than the files can hold."""
    info = builder.info.splits[split]
    try:
        # Reading tells of a file that is missing, and names it.
        there = [path for path in info.filepaths if tf.io.gfile.exists(path)]
        stored = sum(tf.io.gfile.stat(path).length for path in there)
    except Exception as error:  # whatever a damaged record provokes
        raise unreadable(builder.name, builder.data_dir, error) from error
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
