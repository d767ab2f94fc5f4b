"""After every refused batch a good model trains in the same process: nothing of it is left."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError

SHAPE = (8, 8, 1)
CELL = darts_tf.Genotype(
    [[("skip_connect", 0), ("dil_conv_3x3", 1)]], [2], [[("skip_connect", 0)] * 2], [2]
)


def search():
    network = darts_tf.Supernet(3, 2, 1, 1, SHAPE, ("none", "skip_connect", "dil_conv_3x3"))
    model = darts_tf.ArchitectureSearch(network, "first")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(darts_tf.SGD(), darts_tf.Adam(), loss)
    return model


def evaluation():
    network = darts_tf.EvaluationNetwork(CELL, 3, 2, 1, image_shape=SHAPE)
    model = darts_tf.ArchitectureEvaluation(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(darts_tf.SGD(), loss)
    return model


def batches(shape, known=SHAPE):
    """Batches of 4 images; `known` is what their data set tells of height, width and channels."""
    examples = (np.zeros((4, *shape), np.float32), np.arange(4, dtype=np.int32) % 3)
    signature = (
        tf.TensorSpec(None if known is None else (None, *known), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    )
    dataset = tf.data.Dataset.from_generator(lambda: iter([examples]), output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(1))


REFUSED = [
    (SHAPE, (None, None, 1), r"no known height, width or channels.*ensure_shape"),
    (SHAPE, (8, 8, None), r"no known height, width or channels"),
    (SHAPE, None, r"no known height, width or channels"),
    ((9, 8, 1), (9, 8, 1), r"made for images of shape \(8, 8, 1\)"),
    ((8, 8, 2), (8, 8, 2), r"made for images of shape \(8, 8, 1\)"),
    ((8, 8), (8, 8), r"made for images of shape \(8, 8, 1\)"),
]


@pytest.mark.parametrize("make", [search, evaluation])
def test_after_every_refused_batch_a_good_model_trains(make):
    for shape, known, words in REFUSED:
        data = batches(shape, known)
        data = tf.data.Dataset.zip(data, data) if make is search else data
        with pytest.raises(InputError, match=words):
            make().fit(data, verbose=0, shuffle=False)
    data = batches(SHAPE)
    data = tf.data.Dataset.zip(data, data) if make is search else data
    history = make().fit(data, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()
