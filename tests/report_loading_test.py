"""`darts_tf.load_model`: every class of the package is known, and nothing of a file is run."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import darts_tf
from darts_tf.errors import InputError
from darts_tf.genotype import Genotype
from tests.rooms import REPOSITORY, library_files

PAIRS = [("skip_connect", 0), ("max_pool_3x3", 1)]
GENOTYPE = Genotype(PAIRS, [2], PAIRS, [2])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network, and the file it was saved in."""
    network = darts_tf.EvaluationNetwork(GENOTYPE, 3, 2, 1, image_shape=(8, 8, 3))
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    network.save(path)
    return network, path


def test_a_network_is_read_back_with_nothing_named_before(saved):
    classes = []
    for path in library_files():
        source = (REPOSITORY / path).read_text(encoding="utf-8")
        classes += re.findall(r"register_keras_ser.*\(package=\"darts_tf\"\)\nclass (\w+)", source)
    assert {"EvaluationNetwork", "ArchitectureSearch", "SGD", "LSTMNetwork"} <= set(classes)
    network, path = saved
    code = (
        "import darts_tf, keras, numpy as np\n"
        f"model = darts_tf.load_model({str(path)!r})\n"
        f"for name in {classes}:\n"
        "    assert keras.saving.get_registered_object(f'darts_tf>{name}') is not None, name\n"
        "print(type(model).__name__, float(model(np.ones((1, 8, 8, 3), np.float32))[0, 0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, output = done.stdout.split()
    wanted = float(network(np.ones((1, 8, 8, 3), np.float32))[0, 0])
    assert name == "EvaluationNetwork" and float(output) == pytest.approx(wanted, rel=1e-5)


def test_a_compiled_model_has_its_optimizer_unless_told_otherwise(saved, tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(darts_tf.SGD(0.5, momentum=0.25), "mse")
    model.save(tmp_path / "model.keras")
    loaded = darts_tf.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, darts_tf.SGD) and loaded.optimizer.momentum == 0.25
    plain = darts_tf.load_model(tmp_path / "model.keras", compile=False)
    assert getattr(plain, "optimizer", None) is None


@keras.saving.register_keras_serializable(package="somebody")
class Foreign(keras.layers.Layer):
    """A layer whose package the reader does not import."""


def test_what_cannot_be_read_is_said_in_one_line(saved, tmp_path, monkeypatch):
    content = saved[1].read_bytes()
    made = str(tmp_path / "made")
    code = keras.layers.Lambda(lambda x: os.makedirs(made, exist_ok=True) or x, output_shape=(1,))
    models = {"lambda": code, "foreign": Foreign()}
    for name, layer in models.items():
        keras.Sequential([keras.Input((1,)), layer]).save(tmp_path / f"{name}.keras")
    monkeypatch.delitem(keras.saving.get_custom_objects(), "somebody>Foreign")
    (tmp_path / "cut.keras").write_bytes(content[:2000])
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    (tmp_path / "flipped.keras").write_bytes(flipped)
    (tmp_path / "text.keras").write_text("hello")
    (tmp_path / "model.h5").write_bytes(content)
    (tmp_path / "folder.keras").mkdir()
    for name, words in (
        ("none.keras", "none.keras does not exist, and a .keras file is expected. Give the model"),
        ("folder.keras", "folder.keras is a folder"),
        ("model.h5", "model.h5 does not end in .keras"),
        ("text.keras", "text.keras is no .keras file, or it was cut short"),
        ("cut.keras", "cut.keras is no .keras file, or it was cut short"),
        ("flipped.keras", "flipped.keras cannot be read as a Keras model: "),
        ("lambda.keras", "lambda.keras cannot be read as a Keras model: .*Lambda"),
        (
            "foreign.keras",
            "foreign.keras cannot be read as a Keras model: Could not locate class 'Foreign'",
        ),
    ):
        with pytest.raises(InputError, match=words) as error:
            darts_tf.load_model(tmp_path / name)
        assert "\n" not in str(error.value) and "Give the model.keras" in str(error.value)
    assert not os.path.exists(made)
