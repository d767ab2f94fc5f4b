"""Weights of examples and of classes, and labels, in whole searches and trainings."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.bin import search_cnn, train_cnn
from darts_tf.data import ArrayStream, pair
from darts_tf.errors import InputError
from tests.replicas_results import results_on_replicas
from tests.search_architecture_search_test import DenseSupernet, examples, flat

SPARSE = keras.losses.SparseCategoricalCrossentropy
SGD = keras.optimizers.SGD


def search_with(loss, order="first", rate=0.125):
    """A search without momentum and decay."""
    keras.utils.set_random_seed(0)
    search = darts_tf.ArchitectureSearch(DenseSupernet(normalise=False), order=order)
    search.compile(SGD(rate), SGD(rate), loss, metrics=["accuracy"])
    return search


class Network(keras.Model):
    """Two layers that give two logits, with an auxiliary classifier."""

    returns_logits = True

    def __init__(self):
        super().__init__()
        self.inner, self.outer, self.auxiliary = (keras.layers.Dense(n) for n in (3, 2, 2))
        self.forward(np.zeros((1, 4)), True)
        self.built = True

    def call(self, x, training=False):
        return self.outer(tf.tanh(self.inner(x)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 2)

    def forward(self, x, training):
        hidden = tf.tanh(self.inner(x))
        outputs = self.outer(hidden), self.auxiliary(hidden)
        return type("Outputs", (), dict(zip(("logits", "auxiliary_logits"), outputs, strict=True)))


def evaluation_with(loss, rate=0.125):
    keras.utils.set_random_seed(0)
    evaluation = darts_tf.ArchitectureEvaluation(Network())
    evaluation.compile(SGD(rate), loss, metrics=["accuracy"])
    return evaluation


def state(model):
    return flat(v.value for v in (getattr(model, "supernet", None) or model.network).variables)


# ---------------------------------------------------------------- one meaning, that of Keras' loss


@pytest.mark.parametrize(
    "shape, reduction",
    [((6,), "sum_over_batch_size"), ((6, 1), "sum"), ((6, 1), "mean_with_sample_weight")],
)
def test_search_training_and_evaluation_weigh_alike(reduction, shape, precision):
    """An example of weight 2 counts as two of it, one of weight 0 as none."""
    (x, y), (x_val, y_val) = (
        tuple(map(tf.constant, examples(6, seed, "float64"))) for seed in (1, 2)
    )
    weight, rows = np.array([2.0, 1, 0, 2, 0, 0]), [0, 0, 1, 3, 3]
    if reduction == "sum_over_batch_size":
        weight *= 6 / 5  # it divides by the number of examples, whatever they weigh
    weight = tf.constant(weight.reshape(shape))
    train, validation = (x, y, weight), (x_val, y_val, weight)
    repeated = [[tf.gather(t, rows) for t in batch] for batch in ((x, y), (x_val, y_val))]
    loss = SPARSE(from_logits=True, reduction=reduction)

    search, other = search_with(loss), search_with(loss)
    found, same = search.train_step((train, validation)), other.train_step(tuple(repeated))
    assert np.abs(state(search) - state(search_with(loss))).max() > 1e-3
    np.testing.assert_allclose(state(search), state(other), rtol=0, atol=1e-12)
    for name in ("loss", "arch_loss"):
        np.testing.assert_allclose(found[name], same[name], rtol=1e-9)
    for model, twin in (
        (search_with(loss), search_with(loss)),
        (evaluation_with(loss), evaluation_with(loss)),
    ):
        found, same = model.test_step(train), twin.test_step(tuple(repeated[0]))
        np.testing.assert_allclose(found["loss"], same["loss"], rtol=1e-9)
    found, same = model.train_step(train), twin.train_step(tuple(repeated[0]))
    np.testing.assert_allclose(state(model), state(twin), rtol=0, atol=1e-12)


def test_a_batch_without_weight_moves_nothing():
    """But for what an optimizer does without a gradient, momentum and decay; as in Keras."""
    x, y = map(tf.constant, examples(6, 1))
    none = x, y, tf.zeros(6)
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight"):
        loss = SPARSE(from_logits=True, reduction=reduction)
        for order in ("first", "second_fd", "second_exact"):
            search = search_with(loss, order)
            before = state(search)
            results = search.train_step((none, none))
            np.testing.assert_array_equal(state(search), before)
            assert results["loss"] == results["arch_loss"] == 0
            assert search.first_not_finite.read() is None
        evaluation = evaluation_with(loss)
        before = state(evaluation)
        evaluation.train_step(none)
        np.testing.assert_array_equal(state(evaluation), before)
        assert evaluation.test_step(none)["loss"] == 0
    # w <- w - rate (mu b + lambda w), without g.
    evaluation.compile(darts_tf.SGD(0.125, 0.5, 0.25), loss)
    evaluation.optimizer.momentum_buffers[0].assign_add(evaluation.network.weights[0] * 0 + 1)
    before = state(evaluation)
    evaluation.train_step(none)
    expected = before - 0.125 * 0.25 * before
    expected[:12] -= 0.125 * 0.5
    np.testing.assert_allclose(state(evaluation), expected, rtol=1e-6)


# --------------------------------------------------------------------------------- pairs and fits


def weighted(count, seed):
    x, y = examples(count, seed)
    return x, y, np.random.default_rng(seed).uniform(0, 2, count).astype(np.float32)


def test_pairs_have_weights():
    train, valid = weighted(8, 1), weighted(6, 2)
    for halves, options in (
        ((train, valid), {"batch_size": 2}),
        ([tf.data.Dataset.from_tensor_slices(half).batch(2) for half in (train, valid)], {}),
        ((train, tf.data.Dataset.from_tensor_slices(valid).batch(2)), {"batch_size": 2}),
    ):
        batches = pair(*halves, **options).stream()
        for got, half in zip(next(iter(batches)), (train, valid), strict=True):
            for x, y, weight in zip(*(part.numpy() for part in got), strict=True):
                row = np.flatnonzero((half[0] == x).all(1))[0]
                assert (y, weight) == (half[1][row], half[2][row])
    only = pair(train, valid[:2], batch_size=2).stream().element_spec
    assert [len(half) for half in only] == [3, 2]


@pytest.mark.parametrize(
    "weights, words",
    [
        (np.ones(7), r"weights of data must be numbers of shape \(8,\), .* shape \(7,\)"),
        (np.ones((8, 2)), "must be numbers of shape"),
        (np.full(8, "a"), "must be numbers of shape"),
        (np.array([1.0] * 5 + [-1, 1, 1]), "weight of example 5 of data is -1.0; expected finite"),
        (np.array([1.0] * 7 + [np.nan]), "weight of example 7 of data is nan"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(weights, words):
    with pytest.raises(InputError, match=words):
        ArrayStream(*examples(8), batch_size=2, weights=weights)


CLASS_WEIGHT = {0: 0.25, 1: 3.0}


def test_class_weights_are_weights_of_the_examples():
    table = np.array([0.25, 3.0], np.float32)
    train, valid = examples(8, 1), examples(8, 2)
    expected = pair((*train, table[train[1]]), (*valid, table[valid[1]]), batch_size=4)
    loss = SPARSE(from_logits=True)
    search, other = search_with(loss), search_with(loss)
    found = search.fit(pair(train, valid, batch_size=4), class_weight=CLASS_WEIGHT, verbose=0)
    same = other.fit(expected, verbose=0)
    np.testing.assert_array_equal(state(search), state(other))
    assert found.history == same.history
    x, y = train
    one_hot = keras.utils.to_categorical(y, 2)
    categorical = keras.losses.CategoricalCrossentropy(from_logits=True)
    states = []
    for trained, data, options in (
        (loss, (x, y), {"sample_weight": table[y]}),
        (loss, (x, y), {"class_weight": CLASS_WEIGHT}),
        (
            loss,
            (tf.data.Dataset.from_tensor_slices(train).batch(8),),
            {"class_weight": CLASS_WEIGHT},
        ),
        (categorical, (x, one_hot), {"class_weight": CLASS_WEIGHT}),
    ):
        evaluation = evaluation_with(trained)
        evaluation.fit(*data, **options, batch_size=None if len(data) == 1 else 8, verbose=0)
        states.append(state(evaluation))
        np.testing.assert_allclose(states[-1], states[0], rtol=1e-6, atol=1e-7)
    three = tf.data.Dataset.from_tensor_slices((x, y, table[y])).batch(8)
    with pytest.raises(InputError, match="The training data has weights of its own: multiply"):
        evaluation_with(SPARSE(from_logits=True)).fit(three, class_weight=CLASS_WEIGHT)


# ------------------------------------------------------------------------------------------ labels


def batched(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(4)


def test_labels_out_of_range_are_named_and_a_good_model_trains_after_that():
    bad, loss = 2, SPARSE(from_logits=True)
    (x, y), (x_val, y_val) = good = examples(8, 1), examples(8, 2)
    wrong = y_val.copy()
    wrong[5] = bad
    search, evaluation = search_with(loss, "first"), evaluation_with(loss)
    expected = (
        f"{bad} of example 5 of the .* is out of range. Expected 0 to 1, as the network has 2"
    )
    in_batch = f"{bad} of example 1 of batch 1 of the .* Expected 0 to 1, as the network has 2"
    for words, call in (
        (
            f"valid holds the class {bad}, which train lacks",
            lambda: search.fit(pair(good[0], (x, wrong), batch_size=4)),
        ),
        (
            expected.replace(".*", "training half"),
            lambda: search.fit(pair((x, wrong), good[0], batch_size=4)),
        ),
        (
            in_batch.replace("the .*", "the validation half .*"),
            lambda: search.fit(pair(batched(*good[0]), batched(x, wrong)), verbose=0),
        ),
        (expected, lambda: search.evaluate(x, wrong, verbose=0)),
        (
            in_batch.replace("the .*", "the validation data .*"),
            lambda: search.fit(
                pair(*good, batch_size=4), validation_data=batched(x, wrong), verbose=0
            ),
        ),
        (expected.replace(".*", "training data"), lambda: evaluation.fit(x, wrong, verbose=0)),
        (
            in_batch.replace("the .*", "the training data .*"),
            lambda: evaluation.fit(batched(x, wrong), verbose=0),
        ),
        (
            expected.replace(".*", "validation data"),
            lambda: evaluation.fit(x, y, validation_data=(x, wrong), verbose=0),
        ),
        (in_batch, lambda: evaluation.evaluate(batched(x, wrong), verbose=0)),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    for model, data in ((search, pair(*good, batch_size=4)), (evaluation, batched(x, y))):
        history = model.fit(data, validation_data=batched(*good[1]), epochs=1, verbose=0).history
        assert all(np.isfinite(values).all() for values in history.values())


def test_an_ignored_label_is_no_bad_one():
    x, y = examples(8, 1)
    y[3] = -1
    evaluation = evaluation_with(SPARSE(from_logits=True, ignore_class=-1))
    assert np.isfinite(evaluation.fit(x, y, verbose=0).history["loss"]).all()


def test_a_loss_that_returns_the_mean_trains_and_reports_what_is_not_finite():
    x, y = examples(8, 1)
    one_hot = keras.utils.to_categorical(y, 2)
    mean = lambda y, outputs: tf.reduce_mean((y - outputs) ** 2)  # noqa: E731
    states = []
    for loss in (mean, "mse"):
        evaluation = evaluation_with(loss)
        evaluation.fit(batched(x, one_hot), verbose=0)
        states.append(state(evaluation))
    np.testing.assert_allclose(*states, rtol=1e-5, atol=1e-6)
    x[3] = 1e30
    evaluation = evaluation_with(lambda y, outputs: tf.reduce_mean(outputs) / 0.0)
    evaluation.train_step((tf.constant(x), tf.constant(one_hot)))
    found = evaluation.first_not_finite.read()
    assert (found.name, found.example) == ("loss of the training batch", None)


# ---------------------------------------------------------------------------------- two replicas

PROGRAM = """
import dataclasses

import keras
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")
from darts_tf.errors import InputError
from tests import sample_weights_test as test

found = {}
def on(strategy, number):
    for name, value in test.of_replicas(strategy).items():
        found[f"{number}|{name}"] = value
on(tf.distribute.get_strategy(), 1)
on(strategy, 2)
with strategy.scope():
    for option in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps"):
        model = test.evaluation_with("mse")
        try:
            model.compile(keras.optimizers.SGD(0.1, **{option: 2}), "mse")
        except InputError as error:
            found[option] = str(error)
    try:
        model.compile("sgd", "mse", steps_per_execution=4)
    except InputError as error:
        found["steps"] = str(error)
np.savez(sys.argv[1], **found)
"""


def of_replicas(strategy):
    """What fits of weighted batches of 5 and 5 examples give, and evaluations of 5 and 1."""
    x, y, weight = weighted(10, 1)
    x, weight = x.astype("float64"), weight.astype("float64")
    weight[:5] = 0  # a batch without weight
    one_hot = keras.utils.to_categorical(y, 2)
    mean = lambda y, outputs: tf.reduce_mean((y - outputs) ** 2)  # noqa: E731
    found = {}

    def run(name, make, loss, *data, **options):
        with strategy.scope():
            model = make(loss)
        batches = tf.data.Dataset.from_tensor_slices(data).batch(5)
        evaluated = tf.data.Dataset.from_tensor_slices(tuple(a[4:] for a in data)).batch(5)
        found[f"{name}/evaluated"] = model.evaluate(evaluated, verbose=0)
        paired = make is search_with
        batches = tf.data.Dataset.zip(batches, batches) if paired else batches
        history = model.fit(batches, verbose=0, **options).history
        found[f"{name}/history"] = np.array([history[key] for key in sorted(history)])
        found[f"{name}/state"] = state(model)

    weighing, summing, plain = (
        SPARSE(from_logits=True, reduction=reduction)
        for reduction in ("mean_with_sample_weight", "sum", "sum_over_batch_size")
    )
    run("search", search_with, weighing, x, y, weight)
    run("training", evaluation_with, summing, x, y, weight)
    run("classes", evaluation_with, plain, x, y, class_weight=CLASS_WEIGHT)
    run("mean", evaluation_with, mean, x, one_hot)
    return found


def test_two_replicas_weigh_as_one(tmp_path):
    results = results_on_replicas(PROGRAM, 2, tmp_path)
    names = {name[2:] for name in results if name.startswith("1|")}
    assert len(names) == 3 * 4 and names == {n[2:] for n in results if n.startswith("2|")}
    for name in names:
        np.testing.assert_allclose(
            results[f"2|{name}"], results[f"1|{name}"], rtol=1e-9, atol=1e-12, err_msg=name
        )
    for option in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps"):
        assert f"{option}=2 of SGD would be applied by each replica" in str(results[option])
    assert "a call runs one step: leave steps_per_execution=4 out" in str(results["steps"])


def test_programs_balance_classes():
    image_data = darts_tf.data.load_images("digits", limit=40)
    settings = search_cnn.SearchSettings(class_weight="balanced", layers=3, batch_size=16)
    pairing = search_cnn.pairing_of(settings, image_data)
    labels = np.concatenate([stream.labels for stream in (pairing.train, pairing.valid)])
    weights = np.concatenate([stream.weights for stream in (pairing.train, pairing.valid)])
    each = np.bincount(labels, weights)
    np.testing.assert_allclose(each, np.full(10, len(labels) / 10), rtol=1e-5)
    settings = train_cnn.TrainSettings(class_weight="balanced", layers=3, cutout=False)
    stream = train_cnn.streams_of_images(settings, image_data).train
    each = np.bincount(stream.labels, stream.weights)
    np.testing.assert_allclose(each, np.full(10, len(stream.labels) / 10), rtol=1e-5)
    plain = dataclasses.replace(settings, class_weight="none")
    assert train_cnn.streams_of_images(plain, image_data).train.weights is None
    for program in (search_cnn.SearchSettings, train_cnn.TrainSettings):
        with pytest.raises(InputError, match="--class_weight 'x'. Known: balanced, none"):
            program(class_weight="x")
    with pytest.raises(InputError, match="--class_weight=balanced counts the labels in memory"):
        train_cnn.streams_of_imagenet(settings, "imagenet2012", None)
