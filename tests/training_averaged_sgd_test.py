"""AveragedSGD against the recorded trace of the published optimizer, and against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.training.averaged_sgd import AveragedSGD


def run(optimizer, variable, rates):
    """Iterates and averages of steps with gradient -1."""
    iterates, averages = [], []
    step = tf.function(lambda: optimizer.apply([-tf.ones_like(variable.value)], [variable]))
    for rate in rates:
        optimizer.learning_rate = float(rate)
        step()
        iterates.append(float(variable.numpy()[0]))
        averages.append(float(optimizer.averages[0].numpy()[0]))
    return iterates, averages


def test_averaging_as_published_is_late_and_leaves_out_the_first_iterate(precision):
    variable = keras.Variable(np.zeros(2))
    optimizer = AveragedSGD(1.0, 0.0, None)
    optimizer.build([variable])
    optimizer.start_averaging()
    iterates, averages = run(optimizer, variable, [1, 2, 3, 4, 5])
    assert np.diff([0, *iterates]).tolist() == [1, 1, 2, 3, 4]
    np.testing.assert_allclose(averages, [1, 2, 3, 13 / 3, 6], rtol=1e-15)


def test_averaging_without_the_oddities_is_the_mean_of_all_iterates(precision):
    variable = keras.Variable(np.zeros(2))
    optimizer = AveragedSGD(1.0, 0.0, None, published=False)
    optimizer.build([variable])
    optimizer.start_averaging()
    iterates, averages = run(optimizer, variable, [1, 2, 3, 4])
    assert iterates == [1, 3, 6, 10]
    np.testing.assert_allclose(averages, np.cumsum(iterates) / np.arange(1, 5), rtol=1e-15)


def test_before_averaging_it_is_clipped_gradient_descent_with_decay(precision):
    variable = keras.Variable(np.array([3.0, 4.0]))
    optimizer = AveragedSGD(0.5, 0.25, 2.5)
    optimizer.build([variable])
    optimizer.apply([tf.constant([3.0, 4.0], tf.float64)], [variable])
    clipped = np.array([3.0, 4.0]) * 2.5 / (5 + 1e-6)
    expected = np.array([3.0, 4.0]) - 0.5 * (clipped + 0.25 * np.array([3.0, 4.0]))
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12)
    assert not optimizer.is_averaging


def test_averages_take_the_weights_place_and_give_it_back(precision):
    variable = keras.Variable(np.zeros(2))
    optimizer = AveragedSGD(1.0, 0.0, None)
    optimizer.build([variable])
    with optimizer.averaged([variable]):  # nothing to average yet
        np.testing.assert_array_equal(variable.numpy(), 0)
    optimizer.start_averaging()
    run(optimizer, variable, [1, 1, 1])
    with pytest.raises(RuntimeError, match="inside"):
        with optimizer.averaged([variable]):
            np.testing.assert_array_equal(variable.numpy(), 2.5)
            raise RuntimeError("inside")
    np.testing.assert_array_equal(variable.numpy(), 3)
    np.testing.assert_array_equal(optimizer.averages[0].numpy(), 2.5)


def test_its_state_is_all_in_its_variables(precision):
    """What a checkpoint holds is enough to resume exactly."""
    results = []
    for interrupted in (False, True):
        variable = keras.Variable(np.zeros(2))
        optimizer = AveragedSGD(1.0, 0.0, None)
        optimizer.build([variable])
        optimizer.start_averaging()
        run(optimizer, variable, [1, 2, 3])
        if interrupted:
            state = [v.numpy() for v in optimizer.variables]
            optimizer = AveragedSGD(1.0, 0.0, None)
            optimizer.build([variable])
            for v, value in zip(optimizer.variables, state, strict=True):
                v.assign(value)
        results.append(run(optimizer, variable, [4, 5]))
    assert results[0] == results[1]
    assert AveragedSGD.from_config(optimizer.get_config()).get_config() == optimizer.get_config()
