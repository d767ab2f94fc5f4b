"""Training of language models: losses by window, triggers, the best weights, rates by step."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.genotype import RecurrentGenotype
from darts_tf.networks.language import RecurrentEvaluationNetwork
from darts_tf.networks.language_model import Regularization
from darts_tf.training.averaged_sgd import AveragedSGD
from darts_tf.training.language import LanguageModelTraining, stream_loss
from darts_tf.training.language_callbacks import (
    BestWeights,
    CarriedState,
    Perplexity,
    StartAveraging,
    StepLearningRate,
    validation_losses,
)

GENOTYPE = RecurrentGenotype([("tanh", 0)], [1])


def trained(batch=2, **rates):
    network = RecurrentEvaluationNetwork(
        GENOTYPE, 6, 3, batch, batch, Regularization(**{**dict.fromkeys(RATES, 0.0), **rates})
    )
    model = LanguageModelTraining(network)
    model.compile(AveragedSGD(0.5, 0.0, None))
    return model


RATES = ("dropout", "dropouth", "dropoutx", "dropouti", "dropoute", "alpha", "beta")


def windows(*lengths, batch=2):
    """Consecutive windows of a text as (x, y)."""
    text = np.random.default_rng(0).integers(0, 6, (batch, sum(lengths) + 1)).astype(np.int32)
    starts = np.cumsum([0, *lengths])
    pairs = [
        (text[:, s : s + length], text[:, s + 1 : s + length + 1])
        for s, length in zip(starts, lengths, strict=False)
    ]
    signature = (tf.TensorSpec((batch, None), tf.int32),) * 2
    dataset = tf.data.Dataset.from_generator(lambda: pairs, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(pairs))), text


def evaluated(model, dataset):
    return model.evaluate(dataset, verbose=0, return_dict=True)["loss"]


def numpy_loss(network, text):
    """The mean negative log-likelihood of a text read in one piece."""
    logits = network.forward(tf.constant(text[:, :-1]), tf.zeros([len(text), network.width])).logits
    log_probability = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    rows, times = np.indices(text[:, 1:].shape)
    return -log_probability[rows, times, text[:, 1:]].mean()


def test_the_loss_of_a_text_is_the_mean_over_its_words_whatever_the_windows():
    model = trained()
    for variable in model.network.trainable_variables:  # so that no two words have equal losses
        variable.assign(variable * 40)
    for lengths in ((5, 5, 2), (12,), (1, 11)):
        dataset, text = windows(*lengths)
        expected = numpy_loss(model.network, text)
        assert stream_loss(model.network, dataset) == pytest.approx(expected, abs=1e-5)
        assert evaluated(model, dataset) == pytest.approx(expected, abs=1e-5)
    # From hidden state zero each time, wherever training or another test left off.
    assert evaluated(model, dataset) == pytest.approx(expected, abs=1e-5)


def test_a_step_carries_the_state_and_its_gradient_is_that_of_its_window():
    model = trained(beta=0.5)
    (first, second), text = list(windows(4, 3)[0]), windows(4, 3)[1]
    model.train_step(first)
    network = model.network
    np.testing.assert_allclose(
        network.hidden, network.forward(first[0], tf.zeros([2, 3])).hidden, atol=0.2
    )
    carried, weights = network.hidden.numpy(), [v.numpy() for v in network.trainable_variables]
    with tf.GradientTape() as tape:
        result = network.forward(second[0], tf.constant(carried), True)
        losses = keras.losses.sparse_categorical_crossentropy(
            second[1], result.logits, from_logits=True
        )
        loss = tf.reduce_mean(losses) + result.penalty
    gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
    assert float(result.penalty) > 0
    model.train_step(second)
    for v, old, g in zip(network.trainable_variables, weights, gradients, strict=True):
        expected = old - 0.5 * tf.convert_to_tensor(g).numpy()
        np.testing.assert_allclose(v.numpy(), expected, atol=1e-5)
    assert text.shape == (2, 8)


def test_rows_of_a_window_have_weights_and_words_are_looked_at():
    model = trained()
    dataset, text = windows(4)
    x, y = next(iter(dataset))
    weight = np.array([0.5, 2.0], np.float32)
    rows = [numpy_loss(model.network, text[row : row + 1]) for row in (0, 1)]
    expected = np.mean(weight * rows)  # divided by the number of words, whatever they weigh
    assert float(model.test_step((x, y, weight))["loss"]) == pytest.approx(expected, abs=1e-5)
    model.reset_metrics()
    assert float(model.train_step((x, y, weight))["loss"]) == pytest.approx(expected, abs=1e-5)
    wrong = tf.data.Dataset.from_tensors((x.numpy(), y.numpy() + 5))
    with pytest.raises(InputError, match="of batch 0 of the training data .* Expected 0 to 5, as"):
        model.fit(wrong, verbose=0)


def test_an_evaluation_uses_the_averages_and_training_goes_on_from_the_weights():
    model = trained()
    dataset, text = windows(4, 4)
    model.optimizer.start_averaging()
    for x, y in dataset:
        model.train_step((x, y))
        model.train_step((x, y))
    weights = [v.numpy() for v in model.network.trainable_variables]
    with_averages = evaluated(model, dataset)
    for v, before in zip(model.network.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(v.numpy(), before)
    raw = numpy_loss(model.network, text)
    for v, average in zip(model.network.trainable_variables, model.optimizer.averages, strict=True):
        v.assign(average)
    assert with_averages == pytest.approx(numpy_loss(model.network, text), abs=1e-5)
    assert abs(with_averages - raw) > 1e-4


def ended(callback, model, *losses):
    """Tells a callback of epochs; returns whether averaging was on after each."""
    callback.set_model(model)
    started = []
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        started.append(model.optimizer.is_averaging)
    return started


def test_averaging_starts_by_the_published_trigger(capsys):
    # More than 2 stored, and the new loss above the smallest of all but the last 2.
    started = ended(StartAveraging(2), trained(), 5, 4, 4.5, 4.2, 4.1, 3.9, 4.05, 3.95)
    assert started == [False, False, False, False, True, True, True, True]
    assert "averaging   starts after epoch 5" in capsys.readouterr().out
    assert ended(StartAveraging(2), trained(), 5, 4, 3, 3.5, 3.9) == [False] * 5
    # Losses of an earlier part of the run count.
    assert ended(StartAveraging(2, [5, 4, 4.5, 4.2]), trained(), 4.1) == [True]


def test_the_best_weights_are_those_that_were_evaluated(tmp_path):
    model = trained()
    path = tmp_path / "best.weights.h5"
    best = BestWeights(path)
    best.set_model(model)
    best.on_epoch_end(0, {"val_loss": 3.0})
    first = model.network.embedding.numpy()
    model.optimizer.start_averaging()
    model.optimizer.averages[0].assign(tf.ones([6, 3]))
    model.network.embedding.assign(tf.zeros([6, 3]))
    best.on_epoch_end(1, {"val_loss": 3.5})
    other = trained().network
    other.load_weights(path)
    np.testing.assert_array_equal(other.embedding.numpy(), first)
    best.on_epoch_end(2, {"val_loss": 2.5})
    other.load_weights(path)
    np.testing.assert_array_equal(other.embedding.numpy(), 1)
    np.testing.assert_array_equal(model.network.embedding.numpy(), 0)
    assert BestWeights(path, [4.0, 2.5]).best == 2.5
    assert [p.name for p in tmp_path.iterdir()] == ["best.weights.h5"]


def test_every_step_has_its_rate_and_the_epoch_ends_with_the_base_rate():
    model = trained()
    dataset, _ = windows(4, 2, 3)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate.numpy()))

    base = keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.5)
    rates = StepLearningRate(lambda epoch: [0.5, 0.25 * (epoch + 1), 0.125])
    callbacks = [base, CarriedState(), rates, Watch()]
    history = model.fit(dataset, epochs=2, verbose=0, callbacks=callbacks)
    assert history.history["learning_rate"] == [0.5, 0.5]
    assert seen == [0.5, 0.25, 0.125, 0.5, 0.5, 0.125]
    assert float(model.optimizer.learning_rate.numpy()) == 0.5
    with pytest.raises(InputError, match="StepLearningRate has 1 rates for this epoch"):
        model.fit(dataset, verbose=0, callbacks=[StepLearningRate(lambda epoch: [0.5])])


def test_perplexity_is_added_and_states_are_reset():
    logs = {"loss": np.log(20.0), "val_loss": np.log(30.0)}
    Perplexity().on_epoch_end(0, logs)
    assert logs["perplexity"] == pytest.approx(20) and logs["val_perplexity"] == pytest.approx(30)
    model = trained()
    model.network.hidden.assign(tf.ones([2, 3]))
    reset = CarriedState()
    reset.set_model(model)
    reset.on_epoch_begin(0)
    assert np.abs(model.network.hidden.numpy()).max() == 0
    reset.set_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(InputError, match="CarriedState needs a model around a language model"):
        reset.on_epoch_begin(0)


def test_validation_losses_are_those_of_the_epochs_that_are_done(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert validation_losses(path, 0) == []
    rows = [{"epoch": e, "val_loss": 3.0 - e} for e in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 3, "va')
    assert validation_losses(path, 2) == [3.0, 2.0]
