"""What a network does to its images first: a Keras layer that it owns, saves and exports.

The scale of pixels stands in one place, so that training, evaluation and an exported model cannot
have different ones.
"""

import warnings

import keras
import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.networks import skeleton

LARGEST, SMALLEST_DEVIATION = 50.0, 0.01
"""Normalised images seldom exceed 10, and have a deviation near 1 (pixels in [0, 1]: 0.25). What
lies outside of these bounds is on another scale than the one that the network was made for."""

REMEDY = (
    "Make the network with preprocessing=darts_tf.normalization(images), of the training images "
    "on the scale on which they are given, or keras.layers.Rescaling(1 / 255)."
)


class ImageNetwork(keras.Model):
    """What networks of images have in common: their preprocessing."""

    def own(self, preprocessing: keras.layers.Layer | None) -> None:
        """Takes a copy of a preprocessing layer, for the images of `image_shape`.

        Args:
            preprocessing: As for `Supernet`.

        Raises:
            InputError: It is no layer that can be saved, has weights, or does not fit the images.
        """
        # In the type of the weights: at half precision pixels would be rounded.
        layer = own_copy(preprocessing, self.image_shape, self.variable_dtype)
        self.preprocessing = layer
        self._config["preprocessing"] = layer and keras.saving.serialize_keras_object(layer)
        self.takes_bytes = False
        """Whether uint8 images, 0..255, are on the scale of the preprocessing."""
        if layer is not None:
            black = np.zeros((1, *self.image_shape), np.float32)
            self.takes_bytes = self.scale_problem(np.concatenate([black, black + 255])) is None

    def preprocessed(self, x: tf.Tensor) -> tf.Tensor:
        """Images as the stem takes them, (batch, height, width, channels).

        Args:
            x: Images of any number type, on the scale of the preprocessing; normalised ones if
                there is none.

        Raises:
            InputError: They have another shape, or are whole numbers on a scale that the network
                does not know.
        """
        x = tf.convert_to_tensor(x)
        skeleton.check_images(x, self.image_shape)
        whole = x.dtype.is_integer or x.dtype.is_bool
        if whole and (self.preprocessing is None or (x.dtype == tf.uint8 and not self.takes_bytes)):
            known = "has no preprocessing" if self.preprocessing is None else "has another scale"
            raise InputError(
                f"The images are of type {x.dtype.name}, and the network {known}: their scale is "
                f"not known. {REMEDY}"
            )
        if self.preprocessing is None:
            return x
        return self.preprocessing(tf.cast(x, self.variable_dtype))

    def scale_problem(self, images: np.ndarray) -> str | None:
        """What speaks against images being on the network's scale, in a sentence; None if nothing.

        Args:
            images: (batch, height, width, channels), any number type.
        """
        raw = np.asarray(images).astype(np.float32)
        x = raw if self.preprocessing is None else np.asarray(self.preprocessing(raw))
        if not np.isfinite(x).all() or raw.min() == raw.max():
            return None  # the first is found elsewhere; the second tells nothing
        given = f"pixels from {raw.min():.4g} to {raw.max():.4g}"
        after = "" if self.preprocessing is None else " after the network's preprocessing"
        if np.abs(x).max() > LARGEST:
            return f"The images have {given}, up to {np.abs(x).max():.4g}{after}."
        deviation = x.std((0, 1, 2)).max()
        if self.preprocessing is not None and deviation < SMALLEST_DEVIATION:
            return f"The images have {given}, with a deviation of {deviation:.2g}{after}."
        return None

    def check_scale(self, images: np.ndarray) -> None:
        """Warns of images that are on another scale than the network's; as `scale_problem`."""
        problem = self.scale_problem(images)
        if problem:
            said = "are not normalised" if self.preprocessing is None else "have another scale"
            warnings.warn(f"{problem} They {said}. {REMEDY}", stacklevel=2)

    def get_config(self):
        """The constructor's arguments, a genotype as JSON."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config):
        """The network of `get_config`."""
        config = dict(config)
        # Networks that were saved before they had a preprocessing have none.
        if config.get("preprocessing"):
            config["preprocessing"] = keras.saving.deserialize_keras_object(config["preprocessing"])
        return cls(**config)


def own_copy(
    layer: keras.layers.Layer | None, image_shape: tuple[int, int, int], dtype: str
) -> keras.layers.Layer | None:
    """A built copy of a preprocessing layer that computes in a type and has no variables.

    A `Normalization` that was adapted becomes one whose mean and variance are in its configuration.

    Args:
        layer: A Keras layer, or None.
        image_shape: (height, width, channels).
        dtype: The type.

    Raises:
        InputError: It is no layer that can be saved, has weights, or does not fit the images.
    """
    if layer is None:
        return None
    if not isinstance(layer, keras.layers.Layer):
        raise InputError(
            "preprocessing must be a Keras layer, such as darts_tf.normalization(images) or "
            f"keras.layers.Rescaling(1 / 255). Received: {layer!r:.200}."
        )
    try:
        config = keras.saving.serialize_keras_object(_with_constants(layer))
        config.pop("build_config", None)  # it is built here, for these images
        if "dtype" in config["config"] and not isinstance(layer, keras.Model):
            config["config"]["dtype"] = dtype
        copy = keras.saving.deserialize_keras_object(config)
        y = copy(tf.zeros((1, *image_shape), dtype))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"The preprocessing {layer.name!r} cannot be saved, or does not take images of shape "
            f"{image_shape} (height, width, channels): {str(error)[:300]}"
        ) from error
    if copy.variables:
        raise InputError(
            f"The preprocessing {layer.name!r} has variables of its own "
            f"({', '.join(v.path for v in copy.variables)[:200]}). Take a layer without, such as "
            "darts_tf.normalization(images), and augment images in the data."
        )
    if tuple(y.shape[1:]) != image_shape or y.dtype != dtype:
        raise InputError(
            f"The preprocessing {layer.name!r} must make images of shape {image_shape} and type "
            f"{dtype}. It makes {tuple(y.shape[1:])}, {y.dtype.name}; give its parts "
            f'dtype="{dtype}".'
        )
    return copy


def _with_constants(layer: keras.layers.Layer) -> keras.layers.Layer:
    if type(layer) is not keras.layers.Normalization or layer.input_mean is not None:
        return layer
    if not layer.built:
        raise InputError(
            "The preprocessing is a Normalization without mean and variance: adapt it to the "
            "training images, or take darts_tf.normalization(images)."
        )
    # By kept axes, as the constructor takes them.
    mean, variance = (v.numpy().tolist() for v in (layer.adapt_mean, layer.adapt_variance))
    config = {**layer.get_config(), "mean": mean, "variance": variance}
    return keras.layers.Normalization.from_config(config)
