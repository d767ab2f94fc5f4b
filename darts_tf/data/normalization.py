"""Normalisation: the mean and deviation of images as a Keras layer, which a network begins with.

Images stay on the scale on which they are stored; what scale that is stands in this layer alone,
which travels with the network.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError

# Mean and standard deviation by channel of pixels scaled to [0, 1].
# CIFAR-10 and ImageNet: code of the authors (`_data_transforms_cifar10`, `train_imagenet.py`).
# CIFAR-100, which they did not use: the values usual among DARTS's successors.
_PUBLISHED = {
    "cifar10": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Images taken at a time, a compromise between calls and memory.
_BATCH = 256


def normalization(images: np.ndarray | tf.data.Dataset) -> keras.layers.Normalization:
    """The layer that gives each channel of these images mean 0 and standard deviation 1.

    For `darts_tf.Supernet(preprocessing=...)` and `darts_tf.EvaluationNetwork(preprocessing=...)`.
    A channel that is constant is shifted and divided by one grey level, 1/255 of the largest pixel.

    Args:
        images: Training images on the scale on which the networks will get them, mostly 0..255: an
            array (N, height, width, channels), or a `tf.data.Dataset` of batches of images, or of
            tuples that begin with them, as `keras.utils.image_dataset_from_directory` gives.

    Returns:
        A `keras.layers.Normalization` with mean and variance in its configuration; it has no
        variables.

    Raises:
        InputError: No images, of a wrong shape, or with pixels that are not finite.
    """
    count, mean, squares, largest = 0, 0.0, 0.0, 0.0
    for batch in _batches(images):
        batch = np.asarray(batch)
        if batch.ndim != 4 or batch.dtype.kind not in "biuf":
            raise InputError(
                "normalization() takes images of shape (N, height, width, channels), in an array "
                "or in batches of a tf.data.Dataset. Received an array of shape "
                f"{batch.shape} and type {batch.dtype}."
            )
        pixels = batch.astype(np.float64).reshape(-1, batch.shape[-1])
        if not len(pixels):
            continue
        # Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983).
        centre, total = pixels.mean(0), count + len(pixels)
        shift = centre - mean
        squares = squares + ((pixels - centre) ** 2).sum(0)
        squares = squares + shift**2 * (count * len(pixels) / total)
        mean = mean + shift * (len(pixels) / total)
        count, largest = total, max(largest, float(np.abs(pixels).max()))
    if not count:
        raise InputError("normalization() takes at least one image; received none.")
    if not np.isfinite(mean).all():
        raise InputError("The images hold NaN or infinity: repair or remove them.")
    grey_level = largest / 255 or 1.0
    return _layer(mean, np.maximum(np.sqrt(squares / count), grey_level))


def published_normalization(name: str) -> keras.layers.Normalization | None:
    """The layer with the published mean and deviation of a data set, for pixels in 0..255.

    Args:
        name: "cifar10", "cifar100" or "imagenet2012"; of any other there is none.
    """
    if name not in _PUBLISHED:
        return None
    mean, deviation = (255 * np.array(values) for values in _PUBLISHED[name])
    return _layer(mean, deviation)


def _layer(mean: Sequence[float], deviation: Sequence[float]) -> keras.layers.Normalization:
    variance = np.square(deviation).tolist()
    return keras.layers.Normalization(
        mean=np.asarray(mean).tolist(), variance=variance, dtype="float32", name="normalization"
    )


def _batches(images):
    if not isinstance(images, tf.data.Dataset):
        images = np.atleast_1d(images)
        yield from (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
        return
    if images.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError("The data set is endless: cut one epoch out of it with take(batches).")
    for element in images.as_numpy_iterator():
        yield element[0] if isinstance(element, tuple) else element
