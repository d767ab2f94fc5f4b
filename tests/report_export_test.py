"""The exported model: runs without this package, agrees with the network, tells what it holds."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError

MEAN, DEVIATION, NAMES = [127.5, 63.75], [63.75, 127.5], ["cat", "Hündin", "7"]
GENOTYPE = darts_tf.Genotype(
    normal=[[("skip_connect", 0), ("dil_conv_3x3", 1)]],
    normal_concat=[2],
    reduce=[[("max_pool_3x3", 0), ("skip_connect", 1)]],
    reduce_concat=[2],
)
# Runs the model where darts_tf cannot be imported.
PROGRAM = """
import sys
sys.modules["darts_tf"] = None
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
results = {}
for batch in (1, 5):
    images = np.load(sys.argv[2])["images"][:batch]
    for name, serve in (
        ("direct", model.serve),
        ("floats", model.signatures["serving_default"]),
        ("signature", model.signatures["serve_uint8"]),
    ):
        given = tf.constant(images.astype("float32") if name == "floats" else images)
        for key, value in serve(images=given).items():
            results[f"{batch}/{name}/{key}"] = value.numpy()
np.savez(sys.argv[3], **results)
"""


def made(preprocessing, scale=255):
    keras.utils.set_random_seed(0)
    network = darts_tf.EvaluationNetwork(
        GENOTYPE, 3, 2, 2, auxiliary=True, image_shape=(9, 8, 2), preprocessing=preprocessing
    )
    x = scale * np.random.default_rng(1).random((6, 9, 8, 2), np.float32)
    network(x, training=True)  # moves the running statistics
    return network


@pytest.fixture(scope="module")
def network():
    return made(keras.layers.Normalization(mean=MEAN, variance=np.square(DEVIATION).tolist()))


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    darts_tf.export_saved_model(network, folder, NAMES)
    return folder


def test_exported_model_runs_without_this_package(network, exported, tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (5, 9, 8, 2), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    program = [sys.executable, "-c", PROGRAM, exported]
    done = subprocess.run(
        [*program, tmp_path / "images.npz", tmp_path / "results.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logits = network(images, training=False).numpy().astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    with np.load(tmp_path / "results.npz") as results:
        assert len(results.files) == 2 * 3 * 3
        for batch in (1, 5):
            for name in ("direct", "floats", "signature"):
                found = {
                    key: results[f"{batch}/{name}/{key}"]
                    for key in ("logits", "probabilities", "class")
                }
                scale = max(1, np.abs(logits).max())
                np.testing.assert_allclose(
                    found["logits"], logits[:batch], rtol=0, atol=2e-6 * scale
                )
                np.testing.assert_allclose(
                    found["probabilities"], probabilities[:batch], rtol=0, atol=2e-6
                )
                np.testing.assert_array_equal(found["class"], logits[:batch].argmax(1))
                assert found["class"].dtype == np.int32
                assert found["logits"].dtype == np.float32


def test_assets_tell_genotype_and_classes(exported):
    assets = exported / "assets"
    assert sorted(os.listdir(assets)) == ["class_names.json", "genotype.json"]
    assert json.loads((assets / "class_names.json").read_text(encoding="utf-8")) == NAMES
    assert darts_tf.genotype.load(assets / "genotype.json") == GENOTYPE


def test_auxiliary_head_and_unfinished_folders_stay_behind(network, exported):
    assert os.listdir(exported.parent) == ["model"]
    shapes = [
        tuple(shape) for _, shape in tf.train.list_variables(str(exported / "variables/variables"))
    ]
    head = [tuple(v.shape) for v in network.auxiliary_head.trainable_variables]
    assert shapes and not set(shapes) & {shape for shape in head if np.prod(shape) > 100}


def test_without_a_preprocessing_normalised_images_are_served_and_no_bytes(tmp_path, monkeypatch):
    network = made(None, 1)
    (tmp_path / "empty").mkdir()  # an empty folder may be exported to, also the present one
    monkeypatch.chdir(tmp_path / "empty")
    darts_tf.export_saved_model(network, ".")
    assert os.listdir(tmp_path) == ["empty"] and "saved_model.pb" in os.listdir()
    assert not [name for name in os.listdir() if "partial" in name]
    loaded = tf.saved_model.load(str(tmp_path / "empty"))
    images = np.random.default_rng(3).normal(size=(2, 9, 8, 2)).astype(np.float32)
    expected = network(images, training=False)
    np.testing.assert_allclose(loaded.serve(images)["logits"], expected, rtol=0, atol=5e-6)
    assert sorted(loaded.signatures) == ["serve", "serving_default"]
    names = (tmp_path / "empty/assets/class_names.json").read_text()
    assert json.loads(names) == ["0", "1", "2"]


def test_a_folder_with_a_name_like_an_unfinished_one_is_left_alone(network, tmp_path):
    for name in ("model.partial", "partial.model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
    darts_tf.export_saved_model(network, tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == ["model", "model.partial", "partial.model"]
    for name in ("model.partial", "partial.model"):
        assert (tmp_path / name / "thesis.tex").read_text() == "years of work"
    with_mode = tmp_path / "other"
    with_mode.mkdir()
    assert (tmp_path / "model").stat().st_mode == with_mode.stat().st_mode  # others may read it


def test_the_check_sees_another_scale_inside(network, tmp_path, monkeypatch):
    """As if what is written scaled its images by itself, as it did once."""
    from darts_tf.report import export

    right, calls = export._logits, []

    def scaled_when_traced(network, images):
        calls.append(images)
        return right(
            network, images if tf.executing_eagerly() else tf.cast(images, "float32") / 255
        )

    monkeypatch.setattr(export, "_logits", scaled_when_traced)
    with pytest.raises(InputError, match="differs from the network by .* and was not kept"):
        darts_tf.export_saved_model(network, tmp_path / "model")
    assert calls and not os.listdir(tmp_path)


def test_a_folder_that_holds_something_is_left_alone(network, exported):
    before = sorted(os.listdir(exported))
    with pytest.raises(InputError, match="model exists and is no empty folder. Name another"):
        darts_tf.export_saved_model(network, exported)
    assert sorted(os.listdir(exported)) == before


def test_a_file_is_no_folder(network, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file exists and is no empty folder"):
        darts_tf.export_saved_model(network, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"class_names": ["a", "b"]}, "class_names must have 3 values. Received: 2"),
    ],
)
def test_wrong_numbers_of_values_are_refused(network, tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        darts_tf.export_saved_model(network, tmp_path / "model", **arguments)
    assert not os.listdir(tmp_path)
