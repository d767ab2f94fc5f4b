"""The language model of an LSTM: against keras.layers.LSTM and counted by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.networks.language_model import Regularization
from darts_tf.networks.lstm import LSTMNetwork, count_weights, width_of
from darts_tf.training.language import stream_loss

NONE = Regularization(0, 0, 0, 0, 0, 0, 0)


def network(**options):
    keras.utils.set_random_seed(2)
    return LSTMNetwork(7, 4, batch_size=3, evaluation_batch_size=3, **options)


def words(time=5):
    return tf.constant(np.random.default_rng(0).integers(0, 7, (3, time)), tf.int32)


def test_it_computes_what_keras_does_around_the_tied_matrix():
    model = network()
    model.decoder_bias.assign(np.arange(7.0))
    start = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    layer = keras.layers.LSTM(4, return_sequences=True, return_state=True)
    layer.build((None, None, 4))
    layer.set_weights(model.cell.get_weights())
    E = model.embedding.numpy()
    outputs, h, c = layer(E[words()], initial_state=[start[:, :4], start[:, 4:]])
    result = model.forward(words(), tf.constant(start))
    np.testing.assert_allclose(result.logits, outputs @ E.T + np.arange(7), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.hidden, np.concatenate([h, c], 1), atol=1e-6)


def test_the_state_is_carried_whole_from_window_to_window():
    model = network(regularization=NONE)
    whole = model(words(6), training=False).numpy()
    model.reset_states()
    parts = [model(words(6)[:, :2], training=False), model(words(6)[:, 2:], training=False)]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
    assert model.evaluation_hidden.shape == (3, 8)
    logp = tf.nn.log_softmax(whole).numpy()
    labels = np.random.default_rng(5).integers(0, 7, (3, 6))
    picked = np.take_along_axis(logp, labels[..., None], -1)
    windows = tf.data.Dataset.from_tensors((words(6), tf.constant(labels)))
    assert stream_loss(model, windows) == pytest.approx(-picked.mean(), rel=1e-5)


def test_dropout_falls_on_the_state_h_and_on_the_input():
    model = network(regularization=Regularization(0, 0, 0, 0, 0, 0, 0))
    x, state = tf.ones([2, 3, 4]), tf.constant(np.full((3, 8), 0.5, np.float32))
    mask = tf.constant(np.tile([0.0, 2.0, 0.0, 2.0], (3, 1)).astype(np.float32))
    masked = model.unroll(x[:1], state, mask, mask, True).outputs[0]
    h, c = state[:, :4] * mask, state[:, 4:]
    by_hand, _ = model.cell(x[0] * mask, [h, c])
    np.testing.assert_allclose(masked, by_hand, atol=1e-6)


def test_its_weights_are_counted_and_the_width_comes_closest():
    assert network().count_weights() == count_weights(7, 4) == 7 * 4 + 7 + 4 * 4 * (4 + 4 + 1)
    for wanted in (100, 1000, 12345, count_weights(50, 17)):
        found = width_of(50, wanted)
        distances = {n: abs(count_weights(50, n) - wanted) for n in range(1, 60)}
        assert distances[found] == min(distances.values())
    assert width_of(50, count_weights(50, 17)) == 17


def test_it_comes_back_from_its_file(tmp_path):
    model = network(seed=3, regularization=Regularization(dropout=0.1))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert loaded.get_config() == model.get_config()
    np.testing.assert_allclose(loaded(words()), model(words()), atol=1e-6)
