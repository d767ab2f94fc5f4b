"""ArchitectureEvaluation and the losses against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError
from darts_tf.losses import label_smoothed_cross_entropy

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
GENOTYPE = darts_tf.Genotype(
    normal=[[("skip_connect", 0), ("dil_conv_3x3", 1)]],
    normal_concat=[2],
    reduce=[[("max_pool_3x3", 0), ("skip_connect", 1)]],
    reduce_concat=[2],
)
CLASSES = 3


def cross_entropy(labels, logits, smoothing=0.0):
    """-sum t log p of every example, t = (1 - smoothing) onehot + smoothing / classes."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    targets = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
    return -np.sum(targets * log_p, 1)


def batch(count=6, seed=0, dtype="float64"):
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 8, 8, 1)).astype(dtype)
    return tf.constant(x), tf.constant(random.integers(0, CLASSES, count), tf.int32)


def make(loss=CROSS_ENTROPY, auxiliary_weight=0.4, auxiliary=True, optimizer=None, **options):
    keras.utils.set_random_seed(0)
    network = darts_tf.EvaluationNetwork(
        GENOTYPE, CLASSES, 2, 2, auxiliary=auxiliary, image_shape=(8, 8, 1)
    )
    evaluation = darts_tf.ArchitectureEvaluation(network, auxiliary_weight)
    evaluation.compile(optimizer or darts_tf.SGD(0.125), loss, metrics=["accuracy"], **options)
    return evaluation


def forward(evaluation, x):
    """Logits of both classifiers, and the running statistics as they were."""
    network = evaluation.network
    before = [v.numpy() for v in network.non_trainable_variables]
    outputs = network.forward(x, training=True)
    for variable, value in zip(network.non_trainable_variables, before, strict=True):
        variable.assign(value)
    return outputs


# ---------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_is_its_formula(smoothing):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(7, 5)), random.integers(0, 5, 7)
    loss = label_smoothed_cross_entropy(smoothing)
    expected = cross_entropy(labels, logits, smoothing)
    actual = loss(tf.constant(labels), tf.constant(logits))
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    # Labels of shape (batch, 1), as some data sets have them.
    np.testing.assert_allclose(loss(tf.constant(labels[:, None]), tf.constant(logits)), expected)


# ----------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("smoothing", [None, 0.1])
@pytest.mark.parametrize("auxiliary_weight", [0.4, 0.0])
def test_training_loss_is_main_plus_weighted_auxiliary(auxiliary_weight, smoothing, precision):
    loss = CROSS_ENTROPY if smoothing is None else label_smoothed_cross_entropy(smoothing)
    evaluation = make(loss, auxiliary_weight)
    x, y = batch()
    outputs = forward(evaluation, x)
    main, auxiliary = (
        cross_entropy(y.numpy(), logits, smoothing or 0.0).mean()
        for logits in (outputs.logits, outputs.auxiliary_logits)
    )
    assert abs(auxiliary - main) > 1e-3
    results = evaluation.train_step((x, y))
    np.testing.assert_allclose(results["loss"], main + auxiliary_weight * auxiliary, rtol=1e-6)
    hits = np.argmax(outputs.logits, 1) == y.numpy()
    np.testing.assert_allclose(results["accuracy"], hits.mean(), rtol=1e-6)


def test_a_step_clips_then_decays_then_moves(precision):
    rate, momentum, l2, clip = 0.125, 0.5, 0.25, 0.0625
    evaluation = make(optimizer=darts_tf.SGD(rate, momentum, l2, clip))
    variables = evaluation.network.trainable_variables
    weights = [v.numpy() for v in variables]
    buffers = [np.zeros_like(w) for w in weights]
    for seed in (1, 2):
        x, y = batch(seed=seed)
        with tf.GradientTape() as tape:
            outputs = forward(evaluation, x)
            losses = [
                tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
                for logits in (outputs.logits, outputs.auxiliary_logits)
            ]
            loss = tf.reduce_mean(losses[0]) + 0.4 * tf.reduce_mean(losses[1])
        gradients = [g.numpy() for g in tape.gradient(loss, [v.value for v in variables])]
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        assert norm > 2 * clip
        evaluation.train_step((x, y))
        for i, g in enumerate(gradients):
            # The decay is not clipped: it is added behind.
            buffers[i] = momentum * buffers[i] + g * clip / (norm + 1e-6) + l2 * weights[i]
            weights[i] = weights[i] - rate * buffers[i]
            np.testing.assert_allclose(variables[i].numpy(), weights[i], rtol=0, atol=1e-9)


def test_sample_weights_scale_the_losses(precision):
    evaluation = make()
    x, y = batch()
    weight = np.array([0.0, 1.0, 2.0, 1.0, 0.5, 0.0])
    outputs = forward(evaluation, x)
    losses = cross_entropy(y.numpy(), outputs.logits) + 0.4 * cross_entropy(
        y.numpy(), outputs.auxiliary_logits
    )
    results = evaluation.train_step((x, y, tf.constant(weight)))
    np.testing.assert_allclose(results["loss"], np.mean(losses * weight), rtol=1e-6)


def test_a_network_without_auxiliary_head_trains_on_its_loss(precision):
    evaluation = make(auxiliary=False)
    x, y = batch()
    logits = forward(evaluation, x).logits
    results = evaluation.train_step((x, y))
    expected = cross_entropy(y.numpy(), logits).mean()
    np.testing.assert_allclose(results["loss"], expected, rtol=1e-6)


def test_evaluate_reports_the_plain_loss_of_the_running_statistics():
    evaluation = make(label_smoothed_cross_entropy(0.5), evaluation_loss=CROSS_ENTROPY)
    x, y = batch(10, dtype="float32")
    evaluation.network(x, training=True)
    logits = evaluation.network(x, training=False)
    plain = cross_entropy(y.numpy(), logits).mean()
    assert abs(plain - cross_entropy(y.numpy(), logits, 0.5).mean()) > 1e-3
    results = evaluation.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    assert set(results) == {"loss", "accuracy"}
    np.testing.assert_allclose(results["loss"], plain, rtol=1e-5)
    hits = np.argmax(logits, 1) == y.numpy()
    np.testing.assert_allclose(results["accuracy"], hits.mean(), rtol=1e-6)


def test_fit_trains_with_drop_path_and_validates():
    evaluation = make()
    (x, y), validation = batch(10, 1, "float32"), batch(5, 2, "float32")
    network = evaluation.network
    probabilities = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: probabilities.append(float(network.drop_path_prob))
    )
    history = evaluation.fit(
        x,
        y,
        validation_data=validation,
        batch_size=4,  # the last batch is smaller
        epochs=3,
        verbose=0,
        callbacks=[darts_tf.DropPathSchedule(0.6, 3), look],
    ).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(np.isfinite(values).all() and len(values) == 3 for values in history.values())
    np.testing.assert_allclose(probabilities, [0, 0.2, 0.4], rtol=1e-6)
    assert int(network.drop_path_step) == 9


def test_an_evaluation_calls_its_network():
    evaluation = make()
    x, _ = batch(dtype="float32")
    np.testing.assert_array_equal(evaluation(x), evaluation.network(x))


def test_configuration_makes_the_same_evaluation():
    evaluation = make(auxiliary_weight=0.25)
    other = darts_tf.ArchitectureEvaluation.from_config(evaluation.get_config())
    assert other.auxiliary_weight == 0.25
    assert other.network.get_config() == evaluation.network.get_config()


def test_xla_is_not_chosen_by_itself(monkeypatch):
    monkeypatch.setattr(
        darts_tf.ArchitectureEvaluation, "_resolve_auto_jit_compile", lambda self: True
    )
    assert make().jit_compile is False


def test_a_negative_auxiliary_weight_is_refused():
    with pytest.raises(InputError, match="auxiliary_weight must not be negative. Received: -0.4"):
        make(auxiliary_weight=-0.4)
