"""The masked product in a loop, against the products one by one, with its derivatives."""

import numpy as np
import tensorflow as tf

from darts_tf.space.masked_product import masked_product


def one_by_one(W, mask, *states):
    return tf.stack([tf.matmul(state * mask, W) for state in states])


def derivatives(product):
    """First and second derivatives with respect to W and the states, which a loop changes."""
    random = np.random.default_rng(0)
    W, *states = (tf.constant(random.normal(size=size)) for size in [(3, 6), (2, 3), (2, 3)])
    mask = tf.constant(random.integers(0, 2, (2, 3)) / 0.75)

    @tf.function(autograph=False)
    def run(W, one, other):
        wanted = [W, one, other]

        def step(one, other):
            c, h = tf.split(product(W, mask, one, other), 2, axis=-1)
            return tuple(tf.unstack(tf.sigmoid(c) * tf.tanh(h)))

        with tf.GradientTape() as outer:
            outer.watch(wanted)
            with tf.GradientTape() as inner:
                inner.watch(wanted)
                last = tf.while_loop(lambda *_: True, step, (one, other), maximum_iterations=3)
                loss = tf.add_n([tf.reduce_sum(tf.sin(state)) for state in last])
            first = inner.gradient(loss, wanted)
            total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in first])
        return first, outer.gradient(total, wanted)

    return tf.nest.flatten(run(W, *states))


def test_the_derivatives_up_to_the_second_are_those_of_the_products_one_by_one(precision):
    for one, other in zip(derivatives(masked_product), derivatives(one_by_one), strict=True):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
