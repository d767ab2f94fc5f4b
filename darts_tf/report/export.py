"""Export: a SavedModel that takes the images of the training, without this package."""

import json
import os
import pathlib
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from darts_tf import files
from darts_tf.errors import InputError
from darts_tf.space.tracing import exporting, full_precision

ASSETS = ("genotype.json", "class_names.json")
TOLERANCE = 1e-6


def export_saved_model(
    network: keras.Model,
    path: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a SavedModel with one endpoint, `serve`, and checks it.

    Input `images`: (batch, height, width, channels), any batch size: the images that the network
    takes, on the scale of its preprocessing. float32; and uint8, 0..255, if the preprocessing is
    made for that (signature `serve_uint8`). A network without preprocessing takes normalised
    images, and so does what is written. Outputs: `logits` and `probabilities` (batch, num_classes)
    float32, `class` (batch,) int32. In the assets: genotype.json and class_names.json.

    Args:
        network: An evaluation network, trained.
        path: Folder to write; it must not exist or be empty.
        class_names: A name for each class; their numbers by default.

    Raises:
        InputError: The folder is not empty, the number of names is wrong, or the written model's
            outputs for images of that scale differ from the network's by more than 1e-6 (of the
            largest logit, where that is over 1).
        OSError: The file system refuses.
    """
    path = files.checked_new_folder(path)
    classes = network.compute_output_shape((1, *network.image_shape))[-1]
    names = [str(n) for n in (range(classes) if class_names is None else class_names)]
    if len(names) != classes:
        raise InputError(f"class_names must have {classes} values. Received: {len(names)}.")

    def serve(images):
        logits = _logits(network, images)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "class": tf.argmax(logits, -1, output_type=tf.int32),
        }

    module = tf.Module()
    module.serve = tf.function(serve)
    dtypes = [tf.float32, *([tf.uint8] if network.takes_bytes else [])]
    with exporting():
        of_dtype = {
            dtype: module.serve.get_concrete_function(
                tf.TensorSpec((None, *network.image_shape), dtype, name="images")
            )
            for dtype in dtypes
        }
    floats = of_dtype[tf.float32]
    module.weights = floats.variables  # what inference reads; the auxiliary head stays behind
    signatures = {"serve": floats, "serving_default": floats}
    if network.takes_bytes:
        signatures["serve_uint8"] = of_dtype[tf.uint8]
    contents = (network.genotype.to_json(), json.dumps(names, ensure_ascii=False) + "\n")
    with tempfile.TemporaryDirectory() as folder, files.new_folder(path) as partial:
        for name, content in zip(ASSETS, contents, strict=True):
            (pathlib.Path(folder) / name).write_text(content, encoding="utf-8")
        module.assets = [tf.saved_model.Asset(os.path.join(folder, name)) for name in ASSETS]
        with exporting():  # saving traces the function anew
            tf.saved_model.save(module, os.fspath(partial), signatures=signatures)
        _check(partial, network, path)


def _logits(network: keras.Model, images: tf.Tensor) -> tf.Tensor:
    with full_precision():  # whatever the policy that it was trained with
        return tf.cast(network(images, training=False), tf.float32)


def _check(folder: pathlib.Path, network: keras.Model, path: pathlib.Path) -> None:
    """Compares the written model with the network on images like those of its training."""
    loaded = tf.saved_model.load(os.fspath(folder))
    generator = np.random.default_rng(0)
    for batch in (1, 5):
        shape = (batch, *network.image_shape)
        samples = [_images_like_those_of_training(network, generator, shape)]
        if network.takes_bytes:
            samples.append(generator.integers(0, 256, shape, dtype=np.uint8))
        for images in samples:
            with exporting():
                logits = _logits(network, tf.constant(images))
            expected = {"logits": logits, "probabilities": tf.nn.softmax(logits)}
            actual = loaded.serve(tf.constant(images))
            worst = max(_difference(actual[key], expected[key]) for key in expected)
            if not worst <= TOLERANCE:
                raise InputError(
                    f"The SavedModel for {path} differs from the network by {worst:.2g}, more than "
                    f"{TOLERANCE:.0e}, and was not kept."
                )


def _images_like_those_of_training(network, generator, shape) -> np.ndarray:
    """Images with the mean and deviation that the preprocessing was made for; else in 0..255."""
    layer = network.preprocessing
    normal = generator.normal(size=shape)
    if isinstance(layer, keras.layers.Normalization) and not layer.invert:
        normal = np.asarray(layer.mean) + np.sqrt(np.asarray(layer.variance)) * normal
    elif layer is not None:
        normal = 255 * generator.random(shape)
    return normal.astype(np.float32)


def _difference(actual: tf.Tensor, expected: tf.Tensor) -> float:
    """The largest difference; relative to the largest value where that is over 1."""
    scale = tf.maximum(tf.reduce_max(tf.abs(expected)), 1.0)
    return float(tf.reduce_max(tf.abs(actual - expected)) / scale)
