"""The Python example of the README runs, at a size that a test can afford."""

import pathlib
import re

import numpy as np
import tensorflow as tf

import darts_tf
from darts_tf import data

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
SMALLER = {
    'order="second_exact"': 'order="first"',
    "init_channels=16, num_cells=8": "init_channels=2, num_cells=1, num_nodes=1",
    "init_channels=36, num_cells=20": "init_channels=2, num_cells=2",
    "batch_size=64": "batch_size=4",
    "epochs=50": "epochs=1",
    "epochs=600": "epochs=1",
    '"out/"': "output",
}


def test_the_python_example_searches_trains_and_exports(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for published, smaller in SMALLER.items():
        assert code.count(published) == 1, published
        code = code.replace(published, smaller)
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = np.arange(12) % 3
    names = {
        "images": images,
        "labels": labels,
        "train_batches": data.evaluation_batches(images, labels, 4),
        "test_batches": data.evaluation_batches(images, labels, 4),
        "output": tmp_path / "out",
    }
    exec(compile(code, str(README), "exec"), names)
    assert isinstance(names["genotype"], darts_tf.Genotype)
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    expected = names["network"](images, training=False)
    np.testing.assert_allclose(loaded.serve(images)["logits"], expected, rtol=1e-4, atol=1e-5)
