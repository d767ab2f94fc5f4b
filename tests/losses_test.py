"""Losses, weights and labels: the reductions of Keras, in search, training and evaluation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf import examples, losses
from darts_tf.errors import InputError
from darts_tf.losses import BatchLoss

SPARSE = keras.losses.SparseCategoricalCrossentropy
REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight")
BATCH, TIME, CLASSES = 4, 3, 5


def reduced(loss, *batch):
    """The loss of a whole batch on one replica."""
    return float(loss(*map(tf.constant, batch)).share(tf.identity))


def words(shape, seed=0):
    """Labels of a shape, and logits."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(*shape, CLASSES)).astype(np.float32)
    return random.integers(0, CLASSES, shape).astype(np.int32), logits


def cross_entropy(labels, logits):
    """-log p of each label."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, labels[..., None], -1)[..., 0]


# ----------------------------------------------------------------------- against Keras' own call


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "labels, weights",
    [
        ((BATCH,), None),
        ((BATCH,), (BATCH,)),
        ((BATCH,), (BATCH, 1)),
        ((BATCH, 1), (BATCH,)),
        ((BATCH, 1), (BATCH, 1)),
        ((BATCH, TIME), None),
        ((BATCH, TIME), (BATCH, TIME)),
    ],
)
def test_reductions_are_those_of_keras(labels, weights, reduction):
    y, logits = words(labels)
    batch = [y, logits]
    if weights:
        batch.append(np.random.default_rng(1).uniform(0, 2, weights).astype(np.float32))
    loss = SPARSE(from_logits=True, reduction=reduction)
    np.testing.assert_allclose(reduced(BatchLoss(loss), *batch), float(loss(*batch)), rtol=1e-6)


@pytest.mark.parametrize("side", [TIME, BATCH])
@pytest.mark.parametrize("weights", [(BATCH,), (BATCH, 1)])
def test_a_weight_is_that_of_all_words_of_its_example(weights, side):
    """Where Keras refuses, or takes the weights of the examples for those of the words."""
    y, logits = words((BATCH, side))
    weight = np.array([0.0, 1.0, 2.0, 0.5], np.float32)
    sums = np.sum(cross_entropy(y, logits) * weight[:, None])
    for reduction, divisor in (
        ("sum_over_batch_size", BATCH * side),
        ("mean_with_sample_weight", weight.sum() * side),
        ("sum", 1),
    ):
        loss = BatchLoss(SPARSE(from_logits=True, reduction=reduction))
        actual = reduced(loss, y, logits, weight.reshape(weights))
        np.testing.assert_allclose(actual, sums / divisor, rtol=1e-5)


def test_losses_of_a_matrix_count_one_by_one():
    y, outputs = (np.random.default_rng(s).normal(size=(BATCH, TIME)) for s in (0, 1))
    matrix = BatchLoss(lambda y, outputs: (outputs - y) ** 2)
    np.testing.assert_allclose(reduced(matrix, y, outputs), np.mean((y - outputs) ** 2))
    # A label (batch,) and one output a row are brought together, as Keras does, not multiplied out.
    column = reduced(matrix, y[:, 0], outputs[:, :1])
    np.testing.assert_allclose(column, np.mean((y[:, 0] - outputs[:, 0]) ** 2))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_an_ignored_class_is_ignored_as_in_keras(reduction, weighted):
    y, logits = words((6,))
    y[[1, 4]] = -1
    batch = [y, logits]
    if weighted:
        batch.append(np.array([1.0, 2, 0.5, 1, 7, 0], np.float32))
    loss = SPARSE(from_logits=True, ignore_class=-1, reduction=reduction)
    np.testing.assert_allclose(reduced(BatchLoss(loss), *batch), float(loss(*batch)), rtol=1e-6)


class Squared(keras.losses.Loss):
    """A loss of a user, with the labels in the type of the outputs, as Keras gives them."""

    def call(self, y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2, -1)


class MeanOfBatch(keras.losses.Loss):
    """One that returns the mean, which Keras takes too."""

    def call(self, y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2)


@keras.saving.register_keras_serializable(package="tests")
class Registered(Squared):
    pass


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        keras.losses.MeanSquaredError,
        {"class_name": "MeanSquaredError", "config": {}},
        Squared(),
        MeanOfBatch(),
        "tests>Registered",
        lambda y, outputs: tf.reduce_mean((y - outputs) ** 2),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_whatever_keras_takes_is_taken(loss, kind):
    y = np.array([[0, 1], [1, 0], [1, 1]], kind)
    outputs = np.array([[0.5, -1], [2, 0.25], [0, 1]], np.float32)
    loss = BatchLoss(loss, logits=True)
    loss.check(tf.TensorSpec([None, 2], kind), (None, 2))
    np.testing.assert_allclose(reduced(loss, y, outputs), np.mean((y - outputs) ** 2), rtol=1e-6)


def test_a_batch_without_weight_has_no_loss():
    y, logits = words((BATCH,))
    for reduction in REDUCTIONS:
        loss = BatchLoss(SPARSE(from_logits=True, reduction=reduction))
        outputs = tf.constant(logits)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = loss(tf.constant(y), outputs, tf.zeros(BATCH)).share(tf.identity)
        assert float(value) == 0
        np.testing.assert_array_equal(tape.gradient(value, outputs), np.zeros_like(logits))


# ------------------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        SPARSE,
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_names_take_logits_with_a_word(loss):
    y, logits = words((BATCH,))
    with pytest.warns(UserWarning, match="returns logits: the loss .* with from_logits=True"):
        taken = BatchLoss(loss, logits=True)
    np.testing.assert_allclose(
        reduced(taken, y, logits), cross_entropy(y, logits).mean(), rtol=1e-5
    )


@pytest.mark.parametrize(
    "loss, words",
    [
        (SPARSE(), r"SparseCategoricalCrossentropy has from_logits=False .*\(from_logits=True\)"),
        (keras.losses.CategoricalFocalCrossentropy(), "has from_logits=False"),
        ("kl_divergence", "kl_divergence takes probabilities, but the network returns logits"),
        (keras.losses.Dice(), "Dice takes probabilities"),
        (SPARSE(from_logits=True, reduction="none"), "reduction='none', .* sum_over_batch_size"),
        (SPARSE(from_logits=True, reduction=None), "reduction=None, "),
        (
            "sparse_crossentropy",
            "Unknown loss 'sparse_crossentropy'. Known: .*CTC.*Tversky, binary_",
        ),
        (None, "needs one loss: .* Received: None"),
        (["mse", "mse"], "needs one loss"),
        ({"out": "mse"}, "takes one loss, of one output"),
        (3, "cannot take this as a loss: 3"),
    ],
)
def test_losses_that_cannot_be_meant_are_refused(loss, words):
    with pytest.raises(InputError, match=words):
        BatchLoss(loss, logits=True)


def spec(*shape, dtype="int32"):
    return tf.TensorSpec([None, *shape], dtype)


@pytest.mark.parametrize(
    "loss, y, outputs, weight, words",
    [
        (
            SPARSE(from_logits=True),
            spec(3),
            (None, 3),
            None,
            r"takes class numbers, .* labels of the data have shape \(batch, 3\), the outputs "
            r"\(batch, 3\). For one-hot labels take keras.losses.CategoricalCrossentropy",
        ),
        (
            keras.losses.CategoricalCrossentropy(from_logits=True),
            spec(),
            (None, 3),
            None,
            r"takes a label for each output, .* shape \(batch\), .* class numbers take "
            "keras.losses.SparseCategoricalCrossentropy",
        ),
        (losses.label_smoothed_cross_entropy(0.1), spec(3), (None, 3), None, "takes class numbers"),
        (
            keras.losses.MeanSquaredError(),
            spec(1),
            (None, 3),
            None,
            "takes a label for each output",
        ),
        (
            lambda y, outputs: (y - outputs) ** 2,
            spec(dtype="float32"),
            (None, 3),
            None,
            r"<lambda> cannot be computed from labels of shape \(batch\), float32, of the data and",
        ),
        (
            lambda y, outputs: tf.reduce_mean(outputs, 0),
            spec(),
            (None, 3),
            None,
            r"must return one loss for each example, .* returns the shape \(3,\)",
        ),
        (MeanOfBatch(), spec(3), (None, 3), spec(), "one number .* leave the weights out"),
        (
            SPARSE(from_logits=True),
            spec(),
            (None, 3),
            spec(3),
            r"weights have shape \(batch, 3\), the losses \(batch\)",
        ),
        (
            SPARSE(from_logits=True),
            spec(7),
            (None, 7, 3),
            spec(6),
            r"weights have shape \(batch, 6\), the losses \(batch, 7\)",
        ),
        (SPARSE(from_logits=True), None, (None, 3), None, "must have one tensor of labels"),
        (
            SPARSE(from_logits=True),
            tf.TensorSpec(None, "int32"),
            (None, 3),
            None,
            "must have a known number of axes",
        ),
    ],
)
def test_batches_that_do_not_fit_are_answered_in_one_line(loss, y, outputs, weight, words):
    with pytest.raises(InputError, match=words) as caught:
        BatchLoss(loss).check(y, outputs, weight)
    assert "\n" not in str(caught.value)


def test_smoothed_losses_take_labels_in_a_column():
    y, logits = words((BATCH,))
    loss = BatchLoss(losses.label_smoothed_cross_entropy(0.0))
    loss.check(spec(1), (None, CLASSES))
    np.testing.assert_allclose(
        reduced(loss, y[:, None], logits), cross_entropy(y, logits).mean(), rtol=1e-5
    )


# ---------------------------------------------------------------------------- weights of classes


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 0, 2, 2, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = examples.balanced(labels, 4)
    np.testing.assert_allclose([found[c] for c in range(3)], expected)
    np.testing.assert_array_equal(examples.class_table(found, 4)[3], 1)


@pytest.mark.parametrize(
    "weights, words",
    [
        ([1.0, 2.0], r"must map class numbers to weights, .* Received: \[1.0, 2.0\]"),
        ({3: 1.0}, "names the class 3; expected integers from 0 to 2"),
        ({"cat": 1.0}, "names the class 'cat'"),
        ({0: -1.0}, "must be 0 or more and finite. Received: -1.0 for class 0"),
        ({0: float("nan")}, "Received: nan"),
        ({0: "2"}, "Received: '2'"),
    ],
)
def test_weights_of_classes_that_cannot_be_meant_are_refused(weights, words):
    with pytest.raises(InputError, match=words):
        examples.class_table(weights, 3)


def test_classes_of_labels():
    for y, outputs in (
        ([2, 0], (None, 3)),
        ([[2], [0]], (None, 3)),
        ([[0, 0, 1], [1, 0, 0]], (None, 3)),
        ([2.0, 0.0], (None, 1)),
    ):
        np.testing.assert_array_equal(examples.classes_of(np.array(y), outputs), [2, 0])
    with pytest.raises(InputError, match="class_weight needs class numbers"):
        examples.classes_of(np.zeros((2, 4)), (None, 3))


def test_labels_of_arrays_are_looked_at():
    examples.check_labels(np.array([[0, 2], [1, 255]]), 3, "train", ignored=255)
    for labels, words in (
        ([0, 1, -1], "Label -1 of example 2 of the train is out of range. Expected 0 to 2, as"),
        ([[1, 2], [3, 1]], "Label 3 of example 1 of the train"),
    ):
        with pytest.raises(InputError, match=words):
            examples.check_labels(np.array(labels), 3, "train")
