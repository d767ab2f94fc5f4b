"""What was first not finite, in the order in which it was computed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf import replicas
from darts_tf.finite import Check, FirstNotFinite, Found, variables_of


@pytest.fixture
def first():
    return FirstNotFinite()


def look(first, step, values, examples):
    """A step, in a graph, that computes `values` of two variables from `examples`."""

    @tf.function
    def run(step, values, examples):
        rows = replicas.rows(tf.shape(examples)[0])
        checks = [
            Check("examples", [examples, tf.zeros([3, 2, 2], tf.int32)], rows, advice="repair"),
            Check("gradient", [values], None, [("a", 2), ("b", 3)], decides=False),
            Check("sum", [tf.reduce_sum(values)]),
        ]
        first.look(step, checks, rows)

    run(tf.constant(step), tf.constant(values), tf.constant(examples))


GOOD = np.zeros(5, np.float32), np.zeros((3, 4), np.float32)


def bad(index, value=np.nan, shape=(5,)):
    array = np.zeros(shape, np.float32)
    array[index] = value
    return array


def test_nothing_is_found_in_good_steps(first):
    for step in range(3):
        look(first, step, *GOOD)
    assert first.read() is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_in_the_order_of_the_checks_is_found(value, first):
    look(first, 0, *GOOD)
    look(first, 1, bad(3, value), GOOD[1])
    found = Found("gradient", "b", None, 1, 3, "")
    assert first.read() == found
    # What comes after it does not change it.
    look(first, 2, *GOOD)
    look(first, 3, GOOD[0], bad((0, 0), value, (3, 4)))
    assert first.read() == found
    first.forget()
    assert first.read() is None
    look(first, 4, bad(0, value), bad((2, 1), value, (3, 4)))
    assert first.read() == Found("examples", None, 2, 4, 3, "repair")


def test_a_variable_is_named_by_its_place(first):
    for place, name in enumerate("aabbb"):
        first.forget()
        look(first, 0, bad(place), GOOD[1])
        assert first.read().where == name
    weights = [keras.Variable(np.zeros((2, 3)), name="w"), keras.Variable(0.0, name="s")]
    assert variables_of(weights) == [("w", 6), ("s", 1)]


def test_what_does_not_decide_is_looked_at_only_in_bad_steps(first):
    rows = replicas.Rows(tf.constant(0), tf.constant(1), tf.constant(1))
    first.look(
        0, [Check("g", [tf.constant([np.inf])], decides=False), Check("l", [tf.ones(1)])], rows
    )
    assert first.read() is None
    mixed = [tf.constant([1.0], tf.float64), tf.constant([np.nan], tf.float16), tf.ones(1)]
    first.look(7, [Check("m", mixed, None, [("a", 1), ("b", 1), ("c", 1)])], rows)
    assert first.read() == Found("m", "b", None, 7, 1, "")
