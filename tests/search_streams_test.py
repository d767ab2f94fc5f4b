"""What a supernet may offer the search beside weights and alphas: stream state, added losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.losses import BatchLoss
from darts_tf.search import bilevel
from darts_tf.search.architecture_search import ArchitectureSearch
from darts_tf.search.published_second_order import PublishedSecondOrder
from darts_tf.training.optimizers import SGD


class Summing(keras.Model):
    """Output w x alpha; sums up the inputs that it saw in a state of their stream."""

    def __init__(self, penalty=0.0):
        super().__init__()
        self.penalty = penalty
        self.w = self.add_weight(shape=(1,), initializer="ones")
        make = {"shape": (), "initializer": "zeros", "trainable": False}
        self.alpha = self.add_weight(shape=(1,), initializer="ones", trainable=False)
        self.seen = self.add_weight(**make)
        self.seen_validation = self.add_weight(**make)
        self.passes = self.add_weight(**make)
        self.built = True

    architecture_parameters = property(lambda self: [self.alpha])
    network_parameters = property(lambda self: self.trainable_variables)
    stream_state = property(lambda self: [(self.seen, self.seen_validation)])

    def call(self, x, training=False):
        self.seen.assign_add(tf.reduce_sum(x))
        self.passes.assign_add(1.0)
        self.add_loss(self.penalty * tf.reduce_sum(self.w))
        return x * self.w * self.alpha

    def derive(self):
        return "derived"


def searched(order, penalty=0.0, **options):
    """A model, and its search with plain gradient descent on half squared errors."""
    model = Summing(penalty)
    search = ArchitectureSearch(model, order, **options)
    search.compile(
        SGD(0.5, 0.0, 0.0, None),
        SGD(0.0, 0.0, 0.0, None),
        lambda y, outputs: tf.reduce_sum((outputs - y) ** 2, -1) / 2,
    )
    return model, search


def batch(value):
    return tf.constant([[value]]), tf.constant([[0.0]])


@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_each_stream_of_batches_has_a_state_of_its_own(order):
    model, search = searched(order)
    step = tf.function(search.train_step)
    step((batch(1.0), batch(10.0)))
    step((batch(2.0), batch(20.0)))
    assert float(model.seen.numpy()) == 3
    assert float(model.seen_validation.numpy()) == 30
    # What is no state of a stream is that of the weight step, once a step.
    assert float(model.passes.numpy()) == 2


@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_added_losses_are_part_of_the_weight_step_alone(order):
    outcomes = []
    for penalty in (0.0, 0.25):
        model, search = searched(order, penalty)
        logs = tf.function(search.train_step)((batch(1.0), batch(2.0)))
        outcomes.append((float(model.w.numpy()[0]), float(logs["arch_loss"]), float(logs["loss"])))
    without, with_penalty = outcomes
    # w <- w - 0.5 (d/dw (w x)^2 / 2 + penalty), at w = x = 1
    assert without[0] == 0.5 and with_penalty[0] == 0.5 - 0.5 * 0.25
    assert without[1:] == with_penalty[1:]


def test_the_virtual_step_clips_only_where_asked_for():
    """L_train = (2 w)^2 / 2, so g = 4 at w = 1; clipped to 1; L_val = w'^2 / 2."""
    for clip_virtual_step, w_prime in ((False, 1 - 0.25 * 4), (True, 1 - 0.25)):
        model, search = searched("second_exact", clip_virtual_step=clip_virtual_step)
        search.optimizer.clip_norm = 1.0
        search.optimizer.learning_rate = 0.25
        logs = tf.function(search.train_step)((batch(2.0), batch(1.0)))
        assert float(logs["arch_loss"]) == pytest.approx(w_prime**2 / 2, abs=1e-5)


@pytest.mark.parametrize("norm", [0.5, 100.0])
def test_a_clipped_virtual_step_has_the_derivative_of_its_formula(norm, precision):
    """L_train = |w|^2 a / 2, L_val = sum(w) + a: w' = w - xi c a w, c held constant."""
    w, a, xi = np.array([3.0, 4.0]), 2.0, 0.1
    step = bilevel.VirtualStep(xi, clip_norm=norm)
    c = min(1.0, norm / (a * 5.0 + 1e-6))
    for order in ("second_fd", "second_exact"):
        gradient = bilevel.architecture_gradient(
            order,
            lambda w, alphas: alphas[0] * tf.reduce_sum(w * w) / 2,
            lambda w, alphas: tf.reduce_sum(w) + alphas[0],
            tf.constant(w),
            [tf.constant(a, tf.float64)],
            step,
        )
        assert float(gradient.alphas[0]) == pytest.approx(1 - xi * c * w.sum(), abs=1e-9)
        assert float(gradient.validation_loss) == pytest.approx((w - xi * c * a * w).sum() + a)


def test_an_order_of_ones_own_is_used_and_comes_back_from_the_config():
    order = PublishedSecondOrder(1, 3)
    model, search = searched(order)
    config = search.get_config()
    restored = keras.saving.deserialize_keras_object(config["order"])
    assert restored == order
    assert PublishedSecondOrder.keeping([model.alpha, model.w], model.w) == PublishedSecondOrder(
        1, 1
    )


def test_an_evaluation_weighs_every_loss_of_a_matrix_alike():
    """Windows of text differ in length: the mean is over words, not over windows."""
    model, search = searched("first")
    search.batch_loss = BatchLoss(lambda y, outputs: (outputs - y) ** 2 / 2)
    for values in ([1.0, 1.0, 1.0], [3.0]):
        x = tf.constant([values])
        logs = search.test_step((x, tf.zeros_like(x)))
    assert float(logs["loss"]) == pytest.approx((3 * 0.5 + 4.5) / 4)
    assert float(model.w.numpy()[0]) == 1
