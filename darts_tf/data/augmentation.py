"""Image augmentation as pure functions of a batch of images and one seed for each example.

Every random function takes `seeds`, int64 (batch, 2): row i decides all that happens to image i.
The same seeds give the same images, eagerly, in `tf.data` and whatever else is in the batch, so
that a resumed run sees the very images of the uninterrupted one. (The authors' cutout draws from
NumPy inside loader workers that inherit one state, so that workers and epochs repeat positions; we
do not imitate that.)

Transforms and constants: paper, appendix A.1; code of the authors, `_data_transforms_cifar10`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError

# One stream of random numbers for each operation: crop and flip of one image must be independent.
_PURPOSES = ("crop", "flip", "cutout", "shuffle", "jitter")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every channel, in units of pixels scaled to [0, 1].

    Raises:
        InputError: The two lengths differ, or a standard deviation is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not self.mean or not min(self.std) > 0:
            raise InputError(
                "Statistics must have as many means as standard deviations, all of the latter "
                f"positive; received mean {self.mean} and std {self.std}."
            )


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to a training image: pad and crop, flip, normalise, cutout, in this order.

    Attributes:
        padding: Black pixels added on each side before the random crop; 0 leaves the crop out.
        flip: Whether to mirror left and right with probability 1/2.
        cutout: Side of the square set to zero, in pixels; 0 leaves it out. Published: 0 in the
            search, 16 in the evaluation on CIFAR (DeVries and Taylor, 2017).

    Raises:
        InputError: A negative padding or cutout.
    """

    padding: int = 4
    flip: bool = True
    cutout: int = 0

    def __post_init__(self):
        for field in ("padding", "cutout"):
            value = getattr(self, field)
            if value < 0:
                raise InputError(f"{field} must be 0 or more pixels; received {value}.")


NO_AUGMENTATION = Augmentation(padding=0, flip=False, cutout=0)

# Characters lose their meaning in a mirror, so they are never flipped. The padding is at most an
# eighth of the side, as 4 is of CIFAR's 32.
_NOT_MIRRORED = {
    "digits": Augmentation(padding=1, flip=False),
    "mnist": Augmentation(padding=2, flip=False),
    "emnist": Augmentation(padding=2, flip=False),
    "kmnist": Augmentation(padding=2, flip=False),
    "svhn_cropped": Augmentation(padding=4, flip=False),
}
# Clothes survive a mirror; the side is MNIST's.
_MIRRORED = {"fashion_mnist": Augmentation(padding=2, flip=True)}


def default_augmentation(name: str) -> Augmentation:
    """The augmentation for a data set, without cutout.

    CIFAR's published one (padding 4, flip) for every name but: `digits` (padding 1, no flip),
    `mnist`, `emnist`, `kmnist` (padding 2, no flip), `svhn_cropped` (padding 4, no flip) and
    `fashion_mnist` (padding 2, flip). These exceptions are our choice; the paper has none of them.

    Args:
        name: The name given to `load_images`; configuration and version are ignored.
    """
    base = name.split(":")[0].split("/")[0]
    return (_NOT_MIRRORED | _MIRRORED).get(base, Augmentation())


def checked_seed(seed: int) -> int:
    """The seed as a Python integer; raises InputError unless it is an integer of 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"The seed must be an integer of 0 or more; received {seed!r}.")
    return int(seed)


def example_seeds(seed: int, purpose: str, positions: tf.Tensor) -> tf.Tensor:
    """One seed for each position of a stream: int (batch,) -> int64 (batch, 2), or () -> (2,).

    Args:
        seed: The run's seed, 0 or more.
        purpose: "crop", "flip", "cutout", "shuffle" or "jitter"; different purposes are
            independent.
        positions: How many examples of the stream (for "shuffle": epochs) came before.

    Raises:
        InputError: The seed is not an integer of 0 or more.
    """
    # SeedSequence scatters neighbouring seeds, so that seed 0's flips are not seed 1's crops.
    sequence = np.random.SeedSequence((checked_seed(seed), _PURPOSES.index(purpose)))
    key = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
    positions = tf.cast(positions, tf.int64)
    return tf.stack([tf.fill(tf.shape(positions), tf.constant(key, tf.int64)), positions], axis=-1)


def _uniform(seeds: tf.Tensor, limits: Sequence[int | tf.Tensor]) -> list[tf.Tensor]:
    """Uniform integers in [0, limit), independent of each other: int32 (batch,) for each limit.

    The generator is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014). TensorFlow's stateless functions take one seed a call; a call for
    each example takes about half the time of the whole pipeline.
    """
    seeds = tf.bitcast(tf.cast(seeds, tf.int64), tf.uint64)
    draws = []
    for index, limit in enumerate(limits):
        # The counter of draw `index` of this example; no two draws under one key share a counter.
        counter = seeds[:, 1] * tf.constant(len(limits), tf.uint64) + tf.constant(index, tf.uint64)
        bits = seeds[:, 0] + counter * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            bits = tf.bitwise.bitwise_xor(
                bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))
            )
            bits *= tf.constant(factor, tf.uint64)
        # The remainder of 63 bits favours small numbers by less than 1e-15 for any image size.
        bits = tf.bitcast(tf.bitwise.right_shift(bits, tf.constant(1, tf.uint64)), tf.int64)
        draws.append(tf.cast(bits % tf.cast(limit, tf.int64), tf.int32))
    return draws


def pad_and_crop(images: tf.Tensor, padding: int, seeds: tf.Tensor) -> tf.Tensor:
    """Pads with zeros on all sides and crops back at random: (batch, H, W, C) -> the same.

    All (2 * padding + 1)^2 offsets are equally likely. Give pixels that are not normalised yet:
    zero means black in the published order.

    Args:
        images: (batch, H, W, C), any number type.
        padding: Pixels on each side.
        seeds: int64 (batch, 2).
    """
    if padding == 0:
        return images
    images = tf.convert_to_tensor(images)
    top, left = _uniform(seeds, [2 * padding + 1] * 2)
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    rows = top[:, None] + tf.range(tf.shape(images)[1])
    columns = left[:, None] + tf.range(tf.shape(images)[2])
    cropped = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)


def horizontal_flip(images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Mirrors left and right with probability 1/2: (batch, H, W, C) -> the same.

    Args:
        images: (batch, H, W, C), any type.
        seeds: int64 (batch, 2).
    """
    (flip,) = _uniform(seeds, [2])
    return tf.where(flip[:, None, None, None] == 1, tf.reverse(images, axis=[2]), images)


def normalise(images: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """(pixel - mean) / std by channel: (..., C) -> float32 of the same shape.

    Args:
        images: Integer pixels in 0..255, which are divided by 255, or floating point ones in [0,
            1].
        mean: C means of pixels in [0, 1].
        std: C standard deviations of pixels in [0, 1].
    """
    images = tf.convert_to_tensor(images)
    scale = 255.0 if images.dtype.is_integer else 1.0
    pixels = tf.cast(images, tf.float32) / scale
    return (pixels - tf.constant(mean, tf.float32)) / tf.constant(std, tf.float32)


def cutout_mask(
    height: int, width: int, centre_y: tf.Tensor, centre_x: tf.Tensor, length: int
) -> tf.Tensor:
    """What cutout leaves: bool (..., height, width), False inside the square.

    The square is half-open, [y - h, y + h) x [x - h, x + h) with h = length // 2, clipped at the
    borders, as published. An odd length therefore acts as the even one below it.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        centre_y: int32 (...), the row y.
        centre_x: int32 (...), the column x.
        length: Side of the square in pixels.
    """
    half = length // 2

    def inside(size, centre):
        offset = tf.range(size) - tf.convert_to_tensor(centre, tf.int32)[..., None]
        return (offset >= -half) & (offset < half)

    return ~(inside(height, centre_y)[..., :, None] & inside(width, centre_x)[..., None, :])


def cutout(images: tf.Tensor, length: int, seeds: tf.Tensor) -> tf.Tensor:
    """Zeroes one square in all channels, centred anywhere: (batch, H, W, C) -> the same.

    The centre is uniform over all pixels, so squares at the border are clipped (DeVries and Taylor,
    2017). Give normalised images: zero is then the mean colour.

    Args:
        images: (batch, H, W, C), any number type.
        length: Side of the square in pixels; see `cutout_mask`.
        seeds: int64 (batch, 2).
    """
    if length == 0:
        return images
    images = tf.convert_to_tensor(images)
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    centre_y, centre_x = _uniform(seeds, [height, width])
    mask = cutout_mask(height, width, centre_y, centre_x, length)[..., None]
    return tf.where(mask, images, tf.zeros([], images.dtype))


def augment(
    images: tf.Tensor,
    augmentation: Augmentation,
    statistics: Statistics | None,
    seed: int,
    positions: tf.Tensor,
) -> tf.Tensor:
    """The published training transform: (batch, H, W, C) -> the same shape.

    Args:
        images: Integer pixels in 0..255 or floating point ones in [0, 1].
        augmentation: What to do.
        statistics: For the normalisation; None leaves it out, and the dtype as it is.
        seed: The stream's seed, 0 or more.
        positions: int64 (batch,), each example's position in the stream.

    Returns:
        float32 if normalised, else the dtype of `images`.
    """
    images = pad_and_crop(images, augmentation.padding, example_seeds(seed, "crop", positions))
    if augmentation.flip:
        images = horizontal_flip(images, example_seeds(seed, "flip", positions))
    if statistics is not None:
        images = normalise(images, statistics.mean, statistics.std)
    return cutout(images, augmentation.cutout, example_seeds(seed, "cutout", positions))
