"""Export: a SavedModel that takes raw images and needs nothing of this package to run."""

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.space.tracing import exporting

ASSETS = ("genotype.json", "class_names.json")
TOLERANCE = 1e-6


def export_saved_model(
    network: keras.Model,
    path: str | os.PathLike[str],
    mean: Sequence[float] | None = None,
    standard_deviation: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a SavedModel with one endpoint, `serve`, and checks it.

    Input `images`: (batch, height, width, channels) uint8, any batch size; scaled to [0, 1] and
    normalised inside. Outputs: `logits` and `probabilities` (batch, num_classes) float32, `class`
    (batch,) int32. In the
    assets: genotype.json and class_names.json.

    Args:
        network: An evaluation network, trained.
        path: Folder to write; it must not exist or be empty.
        mean, standard_deviation: For each channel, of pixels scaled to [0, 1]; 0 and 1 by default.
        class_names: A name for each class; their numbers by default.

    Raises:
        InputError: The folder is not empty, a number of values is wrong, or the written model's
            outputs differ from the network's by more than 1e-6 (of the largest logit, where that is
            over 1).
    """
    path = pathlib.Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is no empty folder. Name another folder to export to.")
    channels = network.image_shape[2]
    mean = np.zeros(channels) if mean is None else np.asarray(mean)
    deviation = np.ones(channels) if standard_deviation is None else np.asarray(standard_deviation)
    classes = network.compute_output_shape((1, *network.image_shape))[-1]
    names = [str(n) for n in (range(classes) if class_names is None else class_names)]
    for what, values, wanted in (
        ("mean", mean, channels),
        ("standard_deviation", deviation, channels),
        ("class_names", names, classes),
    ):
        if len(values) != wanted:
            raise InputError(f"{what} must have {wanted} values. Received: {len(values)}.")

    def serve(images):
        x = (tf.cast(images, tf.float32) / 255 - tf.constant(mean, tf.float32)) / tf.constant(
            deviation, tf.float32
        )
        logits = tf.cast(network(tf.cast(x, network.compute_dtype), training=False), tf.float32)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "class": tf.argmax(logits, -1, output_type=tf.int32),
        }

    module = tf.Module()
    module.serve = tf.function(
        serve,
        input_signature=[tf.TensorSpec((None, *network.image_shape), tf.uint8, name="images")],
    )
    with exporting():
        concrete = module.serve.get_concrete_function()
    module.weights = concrete.variables  # what inference reads; the auxiliary head stays behind
    with tempfile.TemporaryDirectory() as folder:
        contents = (network.genotype.to_json(), json.dumps(names, ensure_ascii=False) + "\n")
        for name, content in zip(ASSETS, contents, strict=True):
            (pathlib.Path(folder) / name).write_text(content, encoding="utf-8")
        module.assets = [tf.saved_model.Asset(os.path.join(folder, name)) for name in ASSETS]
        signatures = {"serve": concrete, "serving_default": concrete}
        # Under another name until it is complete and checked.
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with exporting():  # saving traces the function anew
            tf.saved_model.save(module, os.fspath(partial), signatures=signatures)
    _check(partial, serve, network.image_shape)
    os.replace(partial, path)


def _check(path: pathlib.Path, serve, image_shape: tuple[int, int, int]) -> None:
    """Compares the written model with the network on random images, at two batch sizes."""
    loaded = tf.saved_model.load(os.fspath(path))
    generator = np.random.default_rng(0)
    for batch in (1, 5):
        images = generator.integers(0, 256, (batch, *image_shape), dtype=np.uint8)
        with exporting():
            expected = serve(tf.constant(images))
        actual = loaded.serve(images)
        worst = max(_difference(actual[key], expected[key]) for key in ("logits", "probabilities"))
        if not worst <= TOLERANCE:
            raise InputError(
                f"The SavedModel in {path} differs from the network by {worst:.2g}, more than "
                f"{TOLERANCE:.0e}. Do not use it."
            )


def _difference(actual: tf.Tensor, expected: tf.Tensor) -> float:
    """The largest difference; relative to the largest value where that is over 1."""
    scale = tf.maximum(tf.reduce_max(tf.abs(expected)), 1.0)
    return float(tf.reduce_max(tf.abs(actual - expected)) / scale)
