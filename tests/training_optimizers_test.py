"""SGD, Adam and the schedules against NumPy and the published values."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError
from darts_tf.training.optimizers import (
    SGD,
    Adam,
    clip_by_global_norm,
    cosine_schedule,
    exponential_schedule,
)

SHAPES = [(3, 2), (4,), (1, 2, 2)]
STEPS = 20


def start(seed=0):
    random = np.random.default_rng(seed)
    weights = [random.normal(size=shape) for shape in SHAPES]
    # Norms from well under to well over the clip.
    gradients = [
        [random.normal(size=shape) * 10 ** random.uniform(-2, 1) for shape in SHAPES]
        for _ in range(STEPS)
    ]
    return weights, gradients


def apply(optimizer, variables, gradients):
    optimizer.apply([tf.constant(g) for g in gradients], variables)


def check(variables, weights, tolerance=1e-12):
    for variable, weight in zip(variables, weights, strict=True):
        np.testing.assert_allclose(variable.numpy(), weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("clip", [2.0, None])
def test_sgd_agrees_with_numpy_across_a_change_of_the_learning_rate(clip, precision):
    weights, gradients = start()
    variables = [keras.Variable(w) for w in weights]
    momentum, l2 = 0.9, 0.01
    optimizer = SGD(0.125, momentum, l2, clip)
    buffers = [np.zeros_like(w) for w in weights]
    clipped = 0
    for step, batch in enumerate(gradients):
        rate = 0.125 if step < 10 else 0.03125  # exact in float32, in which Keras keeps it
        optimizer.learning_rate = rate
        apply(optimizer, variables, batch)
        if clip is not None:
            norm = np.sqrt(sum(np.sum(g**2) for g in batch))
            clipped += norm > clip
            batch = [g * min(1, clip / (norm + 1e-6)) for g in batch]
        for i, g in enumerate(batch):
            # The buffer holds gradients, not steps: a new rate acts on the whole of it at once.
            buffers[i] = momentum * buffers[i] + g + l2 * weights[i]
            weights[i] = weights[i] - rate * buffers[i]
        check(variables, weights)
        check(optimizer.momentum_buffers, buffers)
    assert clip is None or 0 < clipped < STEPS


def test_clipping_stops_at_the_given_norm():
    gradients = [np.full((2, 2), 3.0), np.full((3,), -4.0)]
    norm = np.sqrt(4 * 9 + 3 * 16)
    scaled, before = clip_by_global_norm([tf.constant(g) for g in gradients], 1.5)
    np.testing.assert_allclose(before, norm, rtol=1e-12)
    for actual, g in zip(scaled, gradients, strict=True):
        np.testing.assert_allclose(actual, g * 1.5 / (norm + 1e-6), rtol=1e-12)
    same, _ = clip_by_global_norm([tf.constant(g) for g in gradients], norm + 1)
    for actual, g in zip(same, gradients, strict=True):
        np.testing.assert_array_equal(actual, g)
    zero, _ = clip_by_global_norm([tf.zeros([2], tf.float64)], 1.0)
    np.testing.assert_array_equal(zero[0], [0, 0])


@pytest.mark.parametrize("legacy", [False, True])
def test_adam_agrees_with_numpy_in_both_forms_of_epsilon(legacy, precision):
    weights, gradients = start(1)
    variables = [keras.Variable(w) for w in weights]
    rate, beta_1, beta_2, epsilon, l2 = 0.0078125, 0.5, 0.999, 1e-3, 0.01
    optimizer = Adam(rate, beta_1, beta_2, epsilon, l2, legacy_epsilon=legacy)
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    other = [w.copy() for w in weights]  # by the form that is not asked for
    for t, batch in enumerate(gradients, 1):
        apply(optimizer, variables, batch)
        for i, g in enumerate(batch):
            g = g + l2 * weights[i]
            first[i] = beta_1 * first[i] + (1 - beta_1) * g
            second[i] = beta_2 * second[i] + (1 - beta_2) * g**2
            correction = np.sqrt(1 - beta_2**t)
            steps = [
                rate / (1 - beta_1**t) * first[i] / (np.sqrt(second[i]) / correction + epsilon),
                rate * correction / (1 - beta_1**t) * first[i] / (np.sqrt(second[i]) + epsilon),
            ]
            weights[i] = weights[i] - steps[legacy]
            other[i] = other[i] - steps[not legacy]
        check(variables, weights)
    check(optimizer.first_moments, first)
    check(optimizer.second_moments, second)
    assert max(np.abs(a - b).max() for a, b in zip(weights, other, strict=True)) > 1e-6


def test_the_first_step_of_adam_is_its_learning_rate(precision):
    variable = keras.Variable(np.array([1.0, -2.0]))
    apply(Adam(0.03125, l2=0.0), [variable], [np.array([5.0, -1e-3])])
    np.testing.assert_allclose(variable.numpy(), [1 - 0.03125, -2 + 0.03125], rtol=0, atol=1e-6)


def test_the_defaults_are_the_published_ones():
    sgd, adam = SGD().get_config(), Adam().get_config()
    np.testing.assert_allclose(sgd.pop("learning_rate"), 0.025, rtol=1e-7)
    np.testing.assert_allclose(adam.pop("learning_rate"), 3e-4, rtol=1e-7)
    assert sgd == {"name": "sgd", "momentum": 0.9, "l2": 3e-4, "clip_norm": 5.0}
    assert adam == {
        "name": "adam",
        "beta_1": 0.5,
        "beta_2": 0.999,
        "epsilon": 1e-8,
        "l2": 1e-3,
        "legacy_epsilon": False,
    }


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.125, 0.5, 0.01, None, name="mine"),
        Adam(0.25, 0.1, 0.2, 0.3, 0.4, legacy_epsilon=True, name="mine"),
    ],
    ids=["SGD", "Adam"],
)
def test_configuration_makes_the_same_optimizer(optimizer):
    config = optimizer.get_config()
    assert type(optimizer).from_config(config).get_config() == config
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(loaded) is type(optimizer) and loaded.get_config() == config


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SGD(momentum=1.0), r"momentum must be in \[0, 1\). Received: momentum=1.0"),
        (lambda: SGD(momentum=-0.1), r"momentum must be in \[0, 1\). Received: momentum=-0.1"),
        (lambda: SGD(clip_norm=0), "clip_norm must be positive, or None. Received: clip_norm=0"),
        (lambda: SGD(l2=-1e-4), "l2 must not be negative. Received: l2=-0.0001"),
        (lambda: Adam(l2=-1), "l2 must not be negative. Received: l2=-1"),
        (lambda: Adam(beta_1=1), r"beta_1 and beta_2 must be in \[0, 1\). Received: 1 and 0.999"),
        (lambda: Adam(beta_2=-0.5), r"must be in \[0, 1\). Received: 0.5 and -0.5"),
    ],
)
def test_values_out_of_range_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize(
    "epoch, rate",
    [
        (0, 0.025),
        (1, 0.02497632074),
        (2, 0.02490537642),
        (10, 0.02270820393),
        (25, 0.013),
        (40, 0.003291796068),
        (49, 0.001023679259),
    ],
)
def test_cosine_schedule_of_the_search_has_the_published_values(epoch, rate):
    np.testing.assert_allclose(cosine_schedule(0.025, 0.001, 50)(epoch), rate, rtol=1e-9)


@pytest.mark.parametrize(
    "epoch, rate",
    [(0, 0.025), (1, 0.02499982865), (100, 0.02332531755), (300, 0.0125), (599, 1.71347e-7)],
)
def test_cosine_schedule_of_the_evaluation_has_the_published_values(epoch, rate):
    np.testing.assert_allclose(cosine_schedule(0.025, 0.0, 600)(epoch), rate, rtol=1e-6)


@pytest.mark.parametrize("epoch, rate", [(0, 0.1), (1, 0.097), (100, 0.00475525), (249, 5.083e-5)])
def test_exponential_schedule_has_the_published_values(epoch, rate):
    np.testing.assert_allclose(exponential_schedule(0.1, 0.97)(epoch), rate, rtol=1e-4)


def test_schedules_serve_the_callback_of_keras():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(darts_tf.SGD(0.5), "mse")
    history = model.fit(
        np.zeros((2, 1)),
        np.zeros((2, 1)),
        epochs=3,
        verbose=0,
        callbacks=[keras.callbacks.LearningRateScheduler(darts_tf.exponential_schedule(0.5, 0.5))],
    ).history
    np.testing.assert_allclose(history["learning_rate"], [0.5, 0.25, 0.125], rtol=1e-6)
