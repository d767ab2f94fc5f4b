"""The language models: dropout masks, carried states, penalties, configuration."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.genotype import RecurrentGenotype, derive_recurrent
from darts_tf.networks.language import RecurrentEvaluationNetwork, RecurrentSupernet
from darts_tf.networks.language_model import Regularization

GENOTYPE = RecurrentGenotype([("relu", 0), ("tanh", 1)], [1, 2])
NONE = Regularization(0, 0, 0, 0, 0, 0, 0)


def evaluation_network(**options):
    return RecurrentEvaluationNetwork(GENOTYPE, 7, 4, batch_size=3, **options)


def supernet(**options):
    return RecurrentSupernet(
        7, 4, batch_size=3, evaluation_batch_size=2, num_nodes=2, jit_compile=False, **options
    )


def words(batch=3, time=5, seed=0):
    generator = np.random.default_rng(seed)
    return tf.constant(generator.integers(0, 7, (batch, time)), tf.int32)


def test_a_mask_drops_its_share_and_keeps_the_mean():
    network = RecurrentEvaluationNetwork(GENOTYPE, 7, 400, batch_size=50)
    mask = network._mask("output", [50, 400], 0.75).numpy()
    assert set(np.unique(mask)) == {0.0, 4.0}
    assert mask.mean() == pytest.approx(1, abs=0.05)
    assert network._mask("output", [2, 2], 0.0) is None


def test_all_passes_of_a_step_have_the_same_masks_and_the_next_step_has_others():
    network = evaluation_network()
    hidden = tf.zeros([3, 4])
    first, again = (network.forward(words(), hidden, True).logits for _ in range(2))
    np.testing.assert_array_equal(first, again)
    network.train_window(words())
    assert np.abs(network.forward(words(), hidden, True).logits - first).max() > 0
    masks = {
        name: network._mask(name, [3, 4], 0.5).numpy().tolist() for name in ("input", "output")
    }
    assert masks["input"] != masks["output"]
    other = evaluation_network(seed=5)
    other.set_weights(network.get_weights())
    assert other._mask("input", [3, 4], 0.5).numpy().tolist() != masks["input"]


def test_masks_are_redrawn_with_the_weights_where_asked_for():
    for redraw in (False, True):
        model = supernet(redraw_masks=redraw)
        before = model._mask("output", [3, 4], 0.5).numpy()
        np.testing.assert_array_equal(model._mask("output", [3, 4], 0.5), before)
        model.cell.W[0].assign(model.cell.W[0] * 1.01)
        assert (np.abs(model._mask("output", [3, 4], 0.5) - before).max() > 0) == redraw


def test_dropout_is_locked_over_time_and_off_in_evaluation():
    """With the cell's gate shut and the decoder an identity, the logits show the masks."""
    rates = dataclasses.replace(NONE, dropout=0.5)
    network = RecurrentEvaluationNetwork(GENOTYPE, 4, 4, batch_size=3, regularization=rates)
    network.embedding.assign(np.eye(4))
    for weight in (network.cell.W0, *network.cell.W):
        weight.assign(tf.zeros_like(weight))
    tokens = tf.constant(np.random.default_rng(0).integers(0, 4, (3, 6)), tf.int32)
    hidden = tf.ones([3, 4])
    trained = network.forward(tokens, hidden, True).logits.numpy()
    undropped = network.forward(tokens, hidden).logits.numpy()
    kept = trained / undropped
    np.testing.assert_allclose(kept, np.repeat(kept[:, :1], 6, axis=1))
    assert set(np.unique(np.round(kept, 5))) == {0.0, 2.0}
    assert (undropped > 0).all()


def test_embedding_dropout_drops_words_of_the_lookup_and_not_of_the_decoder():
    rates = dataclasses.replace(NONE, dropoute=0.5)
    network = RecurrentEvaluationNetwork(GENOTYPE, 40, 4, batch_size=3, regularization=rates)
    tokens = tf.constant(np.arange(39).reshape(3, 13), tf.int32)
    seen = []
    network.unroll = lambda x, hidden, *rest: seen.append(x) or network.cell.unroll(x, hidden)
    network.forward(tokens, tf.zeros([3, 4]), True)
    plain = tf.gather(network.embedding, tf.transpose(tokens)).numpy()
    ratio = seen[0].numpy() / plain
    by_word = ratio[..., 0]
    np.testing.assert_allclose(ratio, np.repeat(by_word[..., None], 4, -1), rtol=1e-5)
    assert set(np.unique(np.round(by_word, 4))) == {0.0, 2.0}
    again = network.forward(tf.constant([[5, 5]] * 3), tf.zeros([3, 4]), True)
    assert again.logits.shape == (3, 2, 40)
    assert np.abs(again.logits.numpy()[:, :, 1:]).min() > 0


def test_the_hidden_state_is_carried_and_a_window_in_two_parts_is_one_window():
    network = evaluation_network(evaluation_batch_size=3, regularization=NONE)
    tokens = words(3, 6)
    whole = network(tokens, training=False).numpy()
    network.reset_states()
    parts = [network(tokens[:, :2], training=False), network(tokens[:, 2:], training=False)]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
    assert np.abs(network.hidden.numpy()).max() == 0
    network(tokens, training=True)
    np.testing.assert_allclose(network.hidden, network.evaluation_hidden, atol=1e-6)
    assert int(network.steps_done.numpy()) == 1
    network.reset_states()
    assert np.abs(network.evaluation_hidden.numpy()).max() == 0


def test_lengths_leave_the_state_of_a_row_where_its_words_end():
    network = evaluation_network()
    tokens = words(2, 5)
    long = network.forward(tokens, tf.ones([2, 4]), lengths=tf.constant([2, 5]))
    short = network.forward(tokens[:1, :2], tf.ones([1, 4]))
    np.testing.assert_allclose(long.hidden[0], short.hidden[0], atol=1e-6)
    np.testing.assert_allclose(long.logits[0, :2], short.logits[0], atol=1e-6)


@pytest.mark.parametrize("make", [evaluation_network, supernet])
def test_a_language_model_comes_back_from_its_file(make, tmp_path):
    model = make(seed=3, regularization=Regularization(dropout=0.1))
    model(words(), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert loaded.get_config() == model.get_config()
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_supernet_derives_by_the_published_rule():
    model = supernet()
    alphas = np.random.default_rng(0).normal(size=(3, 5))
    model.alphas_recurrent.assign(alphas)
    assert model.derive() == derive_recurrent(np.float32(alphas))
    assert all(v is not model.alphas_recurrent for v in model.network_parameters)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Regularization(dropout=1.0), r"dropout must be in \[0, 1\). Received: 1.0"),
        (lambda: Regularization(beta=-1.0), "beta must be 0 or more, and finite. Received: -1.0"),
        (lambda: RecurrentSupernet(0), "vocabulary_size must be a whole number of 1 or more"),
        (lambda: evaluation_network()(words(2), training=True), r"a batch of 3, .*shape \(2, 5\)"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
