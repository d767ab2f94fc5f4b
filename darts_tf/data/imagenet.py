"""ImageNet as published: streamed, cropped, flipped, colour jittered (code of the authors).

The transforms follow torchvision's, which the authors use: RandomResizedCrop(224),
RandomHorizontalFlip, ColorJitter(0.4, 0.4, 0.4, 0.2); for the evaluation Resize(256),
CenterCrop(224). Images are delivered in 0..255; Normalize, which follows, is the network's part.
"""

import dataclasses
import math
import os

import numpy as np
import tensorflow as tf

from darts_tf.data.augmentation import example_seeds
from darts_tf.data.prepared import open_prepared, unreadable
from darts_tf.data.splitting import warn_if_by_class
from darts_tf.errors import InputError, whole_number

# torchvision's RandomResizedCrop: share of the area, width / height, tries before the central crop.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
# Examples whose labels are looked at for their order; an image of them is read, not decoded.
_LOOKED_AT = 512
# Largest relative change of brightness, contrast and saturation; largest turn of the hue (1 is full
# circle).
_JITTER = 0.4
_HUE = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages:
    """An endless stream of training batches read from disk, one epoch after another.

    Order and transforms are functions of (seed, epoch, position), so a start at the beginning of an
    epoch is exact and immediate. A start in mid-epoch reads and discards the examples before it
    (they are not decoded), which on ImageNet can take many minutes, and it continues the epoch
    exactly only while the files, the version of tensorflow-datasets and `shuffle_buffer` stay the
    same: unlike `ArrayStream`, do not rely on it.

    The authors permute the whole data set in every epoch. Here the stored order, which
    tensorflow-datasets shuffled once when it prepared the data, passes through a buffer.

    Attributes:
        examples: Dictionaries of "image", uint8 (H, W, 3) of any size or an encoded JPEG (), and
            "label".
        num_examples: How many there are.
        batch_size: Examples in a batch; the last batch of an epoch may be smaller, as published.
        image_size: Side of the crop after resizing, in pixels.
        seed: 0 or more.
        shuffle_buffer: Examples held for shuffling; an encoded ImageNet image takes about 0.1 MB.
    """

    examples: tf.data.Dataset
    num_examples: int
    batch_size: int
    image_size: int = 224
    seed: int = 0
    shuffle_buffer: int = 8192

    def __post_init__(self):
        for field, least in (
            *(("num_examples", 1), ("batch_size", 1), ("image_size", 1)),
            *(("seed", 0), ("shuffle_buffer", 1)),
        ):
            object.__setattr__(self, field, whole_number(field, getattr(self, field), least))
        if self.batch_size > self.num_examples:
            raise InputError(
                f"A batch of {self.batch_size} examples cannot be filled: the training data has "
                f"only {self.num_examples}; take a smaller batch or more data."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch (published: 10,010 of 128)."""
        return -(-self.num_examples // self.batch_size)

    def batches(self, start_step: int = 0) -> tf.data.Dataset:
        """The batches from a step on: float32 (batch, size, size, 3) in 0..255, int32 (batch,).

        Args:
            start_step: Batches to leave out, 0 or more.

        Raises:
            InputError: A negative start.
        """
        start_step = whole_number("start_step", start_step, 0)
        first_epoch, within = divmod(start_step, self.steps_per_epoch)

        def load(position, example):
            image = random_view(example["image"], self.image_size, self.seed, position)
            return 255.0 * image, tf.cast(example["label"], tf.int32)

        def epoch_batches(epoch):
            # The shuffle comes before the decoding: the buffer holds compressed images.
            order_seed = example_seeds(self.seed, "shuffle", epoch)
            order_seed = tf.random.stateless_uniform(
                [], order_seed, maxval=tf.int64.max, dtype=tf.int64, alg="philox"
            )
            # Of this graph only. TensorFlow mixes the global seed in; when it is 0, it compares
            # the pair with (0, 0), which fails for a seed that is a tensor.
            tf.random.set_seed(1)
            examples = self.examples.shuffle(self.shuffle_buffer, seed=order_seed)
            first = epoch * self.num_examples
            skipped = tf.where(epoch == first_epoch, within * self.batch_size, 0)
            examples = examples.enumerate(first).skip(tf.cast(skipped, tf.int64))
            examples = examples.map(load, num_parallel_calls=tf.data.AUTOTUNE)
            return examples.batch(self.batch_size).prefetch(tf.data.AUTOTUNE)

        return tf.data.Dataset.counter(first_epoch).flat_map(epoch_batches)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageNetStreams:
    """What `imagenet_streams` returns.

    Attributes:
        train: Endless, shuffled and augmented.
        validation: Finite, in stored order: (images float32 (batch, size, size, 3) in 0..255,
            labels int32 (batch,)).
        class_names: The classes in the order of the labels.
    """

    train: StreamedImages
    validation: tf.data.Dataset
    class_names: tuple[str, ...]


def imagenet_streams(
    data_dir: str | os.PathLike | None = None,
    batch_size: int = 128,
    *,
    image_size: int = 224,
    seed: int = 0,
    shuffle_buffer: int = 8192,
    name: str = "imagenet2012",
) -> ImageNetStreams:
    """Opens ImageNet as prepared by tensorflow-datasets; never downloads.

    If it is larger than the shuffle buffer, some labels are read to warn of one that is stored
    class by class.

    Args:
        data_dir: The folder where tensorflow-datasets keeps its data; None for its default.
        batch_size: Examples in a batch. Published: 128.
        image_size: Side of the images delivered, in pixels. Published: 224.
        seed: 0 or more; decides shuffling and augmentation.
        shuffle_buffer: Examples held for shuffling, about 0.1 MB each.
        name: Another data set of colour images of any sizes with splits train and validation, for
            example a subset.

    Raises:
        InputError: Absent, unreadable or unsuitable data, or a batch larger than it.
    """
    import tensorflow_datasets as tfds

    builder, (image_key, label_key) = open_prepared(name, data_dir)
    missing = {"train", "validation"} - set(builder.info.splits)
    if missing or builder.info.features[image_key].shape[-1] != 3:
        raise InputError(
            f"Data set {name!r} must have colour images and the splits train and validation; it "
            f"has images of shape {builder.info.features[image_key].shape} and the splits "
            f"{', '.join(sorted(builder.info.splits))}."
        )

    def examples(split):
        dataset = builder.as_dataset(
            split=split,
            decoders={image_key: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
        )
        return dataset.map(
            lambda example: {"image": example[image_key], "label": example[label_key]}
        )

    train = StreamedImages(
        examples("train"),
        builder.info.splits["train"].num_examples,
        batch_size,
        image_size,
        seed,
        shuffle_buffer,
    )
    validation = centre_batches(examples("validation"), batch_size, image_size)
    class_names = tuple(builder.info.features[label_key].names)
    if train.num_examples > shuffle_buffer:
        labels = train.examples.take(_LOOKED_AT).map(lambda example: example["label"])
        try:
            labels = np.array(list(labels.as_numpy_iterator()))
        except Exception as error:  # Whatever a damaged file provokes.
            raise unreadable(name, builder.data_dir, error) from error
        warn_if_by_class(name, labels, len(class_names), train.num_examples)
    return ImageNetStreams(train, validation, class_names)


def centre_batches(examples: tf.data.Dataset, batch_size: int, image_size: int) -> tf.data.Dataset:
    """Every example once, in order, resized and centrally cropped; the last batch may be smaller.

    Args:
        examples: As in `StreamedImages`.
        batch_size: Examples in a batch.
        image_size: Side of the crop in pixels.

    Returns:
        A finite data set of (images, labels), as in `ImageNetStreams`.
    """

    def load(example):
        image = 255.0 * centre_view(example["image"], image_size)
        return image, tf.cast(example["label"], tf.int32)

    examples = examples.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def random_view(image: tf.Tensor, size: int, seed: int, position: tf.Tensor) -> tf.Tensor:
    """A random part of an image, resized, perhaps mirrored, colour jittered.

    Args:
        image: uint8 (H, W, 3), or an encoded JPEG ().
        size: Side of the result in pixels.
        seed: The stream's seed, 0 or more.
        position: int64 (), the example's position in the stream.

    Returns:
        float32 (size, size, 3) in [0, 1].
    """
    image = _decoded(image)
    top, left, height, width = random_box(
        tf.shape(image)[0], tf.shape(image)[1], example_seeds(seed, "crop", position)
    )
    view = _resized(image[top : top + height, left : left + width], [size, size])
    view = tf.image.stateless_random_flip_left_right(view, example_seeds(seed, "flip", position))
    return jitter(tf.ensure_shape(view, [size, size, 3]), example_seeds(seed, "jitter", position))


def centre_view(image: tf.Tensor, size: int) -> tf.Tensor:
    """The centre of an image whose shorter side is resized to size * 256 / 224 first.

    Args:
        image: uint8 (H, W, 3), or an encoded JPEG ().
        size: Side of the result in pixels.

    Returns:
        float32 (size, size, 3) in [0, 1].
    """
    image = _decoded(image)
    shorter = round(size * 256 / 224)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    # Whole numbers, as torchvision computes the longer side.
    smallest = tf.minimum(height, width)
    new_height, new_width = shorter * height // smallest, shorter * width // smallest
    resized = _resized(image, [new_height, new_width])
    top, left = (new_height - size + 1) // 2, (new_width - size + 1) // 2
    return tf.ensure_shape(resized[top : top + size, left : left + size], [size, size, 3])


def random_box(height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """torchvision's RandomResizedCrop: a box of 8 % to 100 % of the area, aspect 3/4 to 4/3.

    Area and logarithm of the aspect ratio are uniform; of ten tries the first that fits is taken,
    else the largest central box with an allowed aspect ratio. (TensorFlow's
    sample_distorted_bounding_box draws the aspect ratio itself uniformly.)

    Args:
        height: int32 (), rows of the image.
        width: int32 (), columns of the image.
        seed: int64 (2,).

    Returns:
        int32 (): top, left, height, width.
    """
    draws = tf.random.stateless_uniform([_TRIES + 1, 2], seed, alg="philox")
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = rows * columns * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[:_TRIES, 0])
    low, high = math.log(_ASPECT[0]), math.log(_ASPECT[1])
    aspect = tf.exp(low + (high - low) * draws[:_TRIES, 1])
    box_height = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    box_width = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    fits = (box_height > 0) & (box_height <= height) & (box_width > 0) & (box_width <= width)
    first = tf.argmax(tf.cast(fits, tf.int32))
    found = tf.reduce_any(fits)
    # No try fitted: as much of the image as has an allowed aspect ratio, in its centre.
    most_height = tf.minimum(height, tf.cast(tf.round(columns / _ASPECT[0]), tf.int32))
    most_width = tf.minimum(width, tf.cast(tf.round(rows * _ASPECT[1]), tf.int32))
    box_height = tf.where(found, box_height[first], most_height)
    box_width = tf.where(found, box_width[first], most_width)
    spare = tf.stack([height - box_height, width - box_width])
    anywhere = tf.cast(tf.cast(spare + 1, tf.float32) * draws[_TRIES], tf.int32)
    top, left = tf.unstack(tf.where(found, tf.minimum(anywhere, spare), spare // 2))
    return top, left, box_height, box_width


def jitter(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """torchvision's ColorJitter(0.4, 0.4, 0.4, 0.2): the four changes in random order.

    Args:
        image: float32 (H, W, 3) in [0, 1].
        seed: int64 (2,).

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    draws = tf.random.stateless_uniform([4], seed, minval=-1.0, maxval=1.0, alg="philox")
    factors = 1.0 + _JITTER * draws[:3]
    order = tf.random.experimental.stateless_shuffle(tf.range(4), seed + [0, 1 << 62], alg="philox")

    def blend(image, other, factor):
        return tf.clip_by_value(factor * image + (1.0 - factor) * other, 0.0, 1.0)

    def brightness(image):
        return blend(image, tf.zeros_like(image), factors[0])

    def contrast(image):
        return blend(image, tf.reduce_mean(tf.image.rgb_to_grayscale(image)), factors[1])

    def saturation(image):
        return blend(image, tf.image.rgb_to_grayscale(image), factors[2])

    def hue(image):
        return tf.image.adjust_hue(image, _HUE * draws[3])

    changes = (brightness, contrast, saturation, hue)
    for turn in range(4):
        before = image
        image = tf.switch_case(
            order[turn], [lambda change=change, x=before: change(x) for change in changes]
        )
    return image


def _decoded(image: tf.Tensor) -> tf.Tensor:
    image = tf.convert_to_tensor(image)
    return tf.io.decode_jpeg(image, channels=3) if image.dtype == tf.string else image


def _resized(image: tf.Tensor, size) -> tf.Tensor:
    # Antialiased like the images that torchvision resizes; TensorFlow's default would alias.
    pixels = tf.image.resize(tf.cast(image, tf.float32) / 255.0, size, antialias=True)
    return tf.clip_by_value(pixels, 0.0, 1.0)
