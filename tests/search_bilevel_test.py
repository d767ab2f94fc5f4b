"""The three architecture gradients as pure functions, against their closed forms in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.search import bilevel

SOURCE = np.random.default_rng(0)
W, BUFFER = SOURCE.normal(size=(2, 5))
ALPHAS = [SOURCE.normal(size=(2,)), SOURCE.normal(size=(1, 2))]
A = np.concatenate([alpha.ravel() for alpha in ALPHAS])
B, C = SOURCE.normal(size=(2, 5, 4))

STEPS = {
    "plain": {"xi": 0.3},
    "momentum": {"xi": 0.3, "momentum": 0.9, "buffer": BUFFER},
    "momentum and decay": {"xi": 0.3, "momentum": 0.9, "buffer": BUFFER, "weight_decay": 0.2},
    "xi = 0": {"xi": 0.0, "momentum": 0.9, "buffer": BUFFER, "weight_decay": 0.2},
}


def joined(alphas):
    return tf.concat([tf.reshape(alpha, [-1]) for alpha in alphas], 0)


def train_loss(w, alphas):
    """sum tanh(w) * (B a) + |w|^2 / 2."""
    return tf.reduce_sum(tf.tanh(w) * tf.linalg.matvec(B, joined(alphas))) + tf.nn.l2_loss(w)


def validation_loss(w, alphas):
    """sum sin(w) + w . (C a) + |a|^2 / 2."""
    a = joined(alphas)
    return tf.reduce_sum(tf.sin(w) + w * tf.linalg.matvec(C, a)) + tf.nn.l2_loss(a)


def virtual_weights(xi, momentum=0.0, buffer=0.0, weight_decay=0.0):
    gradient = (1 - np.tanh(W) ** 2) * (B @ A) + W
    return W - xi * (momentum * buffer + gradient + weight_decay * W)


def expected(order, settings):
    if order == "first":
        return C.T @ W + A
    w_prime = virtual_weights(**settings)
    v = np.cos(w_prime) + C @ A
    if order == "second_exact":
        product = B.T @ ((1 - np.tanh(W) ** 2) * v)
    else:
        r = 0.01 / np.linalg.norm(v)
        product = B.T @ (np.tanh(W + r * v) - np.tanh(W - r * v)) / (2 * r)
    return C.T @ w_prime + A - settings["xi"] * product


def computed(order, settings, losses=(train_loss, validation_loss), **options):
    @tf.function(autograph=False)
    def graph():
        gradient = bilevel.architecture_gradient(
            order,
            *losses,
            tf.constant(W),
            [tf.constant(alpha) for alpha in ALPHAS],
            bilevel.VirtualStep(**settings),
            **options,
        )
        return gradient.alphas, gradient.validation_loss

    return graph()


@pytest.mark.parametrize("settings", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_gradient_equals_its_closed_form(order, settings):
    alphas, _ = computed(order, settings)
    assert [alpha.shape for alpha in alphas] == [alpha.shape for alpha in ALPHAS]
    np.testing.assert_allclose(joined(alphas), expected(order, settings), rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_validation_loss_is_that_at_the_weights_of_the_order(order):
    settings = STEPS["momentum and decay"]
    _, loss = computed(order, settings)
    w = W if order == "first" else virtual_weights(**settings)
    np.testing.assert_allclose(loss, np.sum(np.sin(w) + w * (C @ A)) + A @ A / 2, rtol=1e-13)


def test_the_two_second_orders_differ_by_the_square_of_the_step():
    step = bilevel.VirtualStep(0.3)
    alphas = [tf.constant(alpha) for alpha in ALPHAS]
    arguments = (train_loss, validation_loss, tf.constant(W), alphas, step)
    exact = joined(bilevel.second_exact(*arguments).alphas)
    coarse, fine = (
        np.linalg.norm(joined(bilevel.second_fd(*arguments, length=length).alphas) - exact)
        for length in (1e-1, 1e-2)
    )
    assert 95 < coarse / fine < 105


@pytest.mark.parametrize("order", ["second_fd", "second_exact"])
@pytest.mark.parametrize("connected", [True, False])
def test_where_v_is_zero_the_gradient_is_the_direct_term_and_no_nan(order, connected):
    """Without a guard the finite difference would divide by |v| = 0."""

    def without_weights(w, alphas):
        return tf.reduce_sum(joined(alphas) ** 3) + (tf.reduce_sum(0 * w) if connected else 0)

    alphas, _ = computed(order, STEPS["momentum"], (train_loss, without_weights))
    np.testing.assert_allclose(joined(alphas), 3 * A**2, rtol=1e-14)


@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_alphas_without_influence_have_gradient_zero(order):
    losses = (lambda w, alphas: tf.nn.l2_loss(w),) * 2
    alphas, _ = computed(order, STEPS["plain"], losses)
    assert not np.any(joined(alphas))


@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_replicas_each_with_half_of_the_loss_give_half_of_the_gradient(order):
    """Both replicas are alike here, so that the sum over them is a factor 2."""

    def halves(loss):
        return lambda w, alphas: loss(w, alphas) / 2

    settings = STEPS["momentum and decay"]
    losses = halves(train_loss), halves(validation_loss)
    shares, _ = computed(order, settings, losses, reduce=lambda tensor: 2 * tensor)
    np.testing.assert_allclose(2 * joined(shares), expected(order, settings), rtol=0, atol=1e-11)


def test_virtual_step_is_the_next_step_of_sgd_with_momentum():
    step = bilevel.VirtualStep(0.1, momentum=0.9, buffer=2.0, weight_decay=0.5)
    # b <- 0.9 * 2 + (3 + 0.5 * 4) = 6.8;  w <- 4 - 0.1 * 6.8
    assert step(4.0, 3.0) == pytest.approx(3.32, abs=1e-15)


def test_unknown_order_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="'third'. Known: first, second_exact, second_fd"):
        computed("third", STEPS["plain"])
