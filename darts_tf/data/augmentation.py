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

from darts_tf.errors import InputError, whole_number

# One stream of random numbers for each operation: crop and flip of one image must be independent.
_PURPOSES = ("crop", "flip", "cutout", "shuffle", "jitter")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to a training image: pad and crop, flip, cutout, in this order.

    Images keep their scale; normalising them is the network's part, and comes after this.

    Attributes:
        padding: Black pixels added on each side before the random crop; 0 leaves the crop out.
        flip: Whether to mirror left and right with probability 1/2.
        cutout: Side of the square that is filled, in pixels; 0 leaves it out. Published: 0 in the
            search, 16 in the evaluation on CIFAR (DeVries and Taylor, 2017). The images become
            float32.
        fill: What cutout fills with, a value for each channel on the images' scale: as published
            the training mean, which the normalisation makes zero. None for the mean of the images
            that are augmented.

    Raises:
        InputError: Padding or cutout is no whole number of 0 or more.
    """

    padding: int = 4
    flip: bool = True
    cutout: int = 0
    fill: tuple[float, ...] | None = None

    def __post_init__(self):
        for field in ("padding", "cutout"):
            object.__setattr__(self, field, whole_number(field, getattr(self, field), 0))

    def check_size(self, image_shape: tuple[int, int, int]) -> None:
        """Checks that something of each image is left.

        Args:
            image_shape: (height, width, channels).

        Raises:
            InputError: The padding or the square is as large as the image, or `fill` has other
                channels.
        """
        side = min(image_shape[:2])
        for field in ("padding", "cutout"):
            if getattr(self, field) >= side:
                raise InputError(
                    f"{field}={getattr(self, field)} covers the whole of images of "
                    f"{image_shape[0]}x{image_shape[1]} px: it must be less than {side}, and 0 "
                    "leaves it out."
                )
        if self.fill is not None and len(self.fill) != image_shape[2]:
            raise InputError(f"fill has {len(self.fill)} channels but the images {image_shape[2]}.")


NO_AUGMENTATION = Augmentation(padding=0, flip=False, cutout=0)

# Characters lose their meaning in a mirror, so they are never flipped.
_NOT_MIRRORED = {
    "digits": Augmentation(padding=1, flip=False),
    "mnist": Augmentation(padding=2, flip=False),
    "emnist": Augmentation(padding=2, flip=False),
    "kmnist": Augmentation(padding=2, flip=False),
    "svhn_cropped": Augmentation(padding=4, flip=False),
}
# Clothes survive a mirror; the side is MNIST's.
_MIRRORED = {"fashion_mnist": Augmentation(padding=2, flip=True)}


def default_augmentation(name: str, image_shape: tuple[int, int, int]) -> Augmentation:
    """The augmentation for a data set, without cutout.

    CIFAR's published one (padding 4, flip) for every name but: `digits` (padding 1, no flip),
    `mnist`, `emnist`, `kmnist` (padding 2, no flip), `svhn_cropped` (padding 4, no flip) and
    `fashion_mnist` (padding 2, flip). These exceptions are our choice; the paper has none of them.
    The padding is at most an eighth of the shorter side, as 4 is of CIFAR's 32.

    Args:
        name: The name given to `load_images`; configuration and version are ignored.
        image_shape: (height, width, channels).
    """
    base = name.split(":")[0].split("/")[0]
    found = (_NOT_MIRRORED | _MIRRORED).get(base, Augmentation())
    return dataclasses.replace(found, padding=min(found.padding, min(image_shape[:2]) // 8))


def checked_seed(seed: int) -> int:
    """The seed as a Python integer; raises InputError unless it is an integer of 0 or more."""
    return whole_number("seed", seed, 0)


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


def cutout(
    images: tf.Tensor, length: int, seeds: tf.Tensor, fill: Sequence[float] | None = None
) -> tf.Tensor:
    """Fills one square in all channels, centred anywhere: (batch, H, W, C) -> the same.

    The centre is uniform over all pixels, so squares at the border are clipped (DeVries and Taylor,
    2017).

    Args:
        images: (batch, H, W, C), any number type.
        length: Side of the square in pixels; see `cutout_mask`.
        seeds: int64 (batch, 2).
        fill: A value for each channel, which the type of the images can hold; zero by default.
    """
    if length == 0:
        return images
    images = tf.convert_to_tensor(images)
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    centre_y, centre_x = _uniform(seeds, [height, width])
    mask = cutout_mask(height, width, centre_y, centre_x, length)[..., None]
    return tf.where(mask, images, tf.constant(0 if fill is None else fill, images.dtype))


def augment(
    images: tf.Tensor, augmentation: Augmentation, seed: int, positions: tf.Tensor
) -> tf.Tensor:
    """The published training transform but for the normalisation: (batch, H, W, C) -> the same.

    Args:
        images: Pixels on any scale on which 0 is black.
        augmentation: What to do; cutout without `fill` leaves black squares.
        seed: The stream's seed, 0 or more.
        positions: int64 (batch,), each example's position in the stream.

    Returns:
        float32 with cutout, whose mean is no whole number, else the dtype of `images`.
    """
    images = pad_and_crop(images, augmentation.padding, example_seeds(seed, "crop", positions))
    if augmentation.flip:
        images = horizontal_flip(images, example_seeds(seed, "flip", positions))
    if not augmentation.cutout:
        return images
    seeds = example_seeds(seed, "cutout", positions)
    return cutout(tf.cast(images, tf.float32), augmentation.cutout, seeds, augmentation.fill)
