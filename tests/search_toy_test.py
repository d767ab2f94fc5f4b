"""The toy problem of the paper's figure 2: where descent ends, how it gets there, and one bug."""

import numpy as np
import pytest

from darts_tf.errors import InputError
from darts_tf.search import toy

SECOND_ORDERS = ("second_exact", "second_fd")
FIXED_POINTS = {0.0: 2.0, 0.2: 10 / 7, 0.5: 1.0, 0.7: 5 / 6}


@pytest.mark.parametrize("order", SECOND_ORDERS)
@pytest.mark.parametrize("xi", FIXED_POINTS)
def test_descent_ends_at_the_fixed_point(xi, order):
    path = toy.trajectory(xi, steps=160, order=order)
    assert path.alpha[-1] == pytest.approx(FIXED_POINTS[xi], abs=1e-6)
    assert path.w[-1] == pytest.approx(FIXED_POINTS[xi], abs=1e-6)
    assert toy.fixed_point(xi) == pytest.approx(FIXED_POINTS[xi], abs=1e-15)


def test_first_order_ends_at_two_whatever_xi_is():
    path = toy.trajectory(0.5, steps=160, order="first")
    assert path.alpha[-1] == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("order", SECOND_ORDERS)
@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_at_xi_one_half_the_whole_path_is_known(order, rate):
    path = toy.trajectory(0.5, 50, rate, rate, order)
    t, rho = np.arange(51), 1 - 2 * rate
    np.testing.assert_allclose(path.alpha, 1 + rho**t, rtol=0, atol=1e-12)
    np.testing.assert_allclose(path.w, 1 + (2 * rate * t - 3) * rho**t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", SECOND_ORDERS)
def test_gradient_is_the_closed_form_along_the_path(order):
    xi = 0.2
    path = toy.trajectory(xi, 30, order=order)
    expected = (1 - 2 * xi) * path.w[:-1] + 4 * xi * path.alpha[:-1] - 2
    np.testing.assert_allclose(path.gradient, expected, rtol=0, atol=1e-12)
    assert path.alpha.shape == path.w.shape == (31,)
    assert (path.alpha[0], path.w[0]) == toy.START


def test_misplaced_parenthesis_of_a_popular_port_would_end_near_two():
    """(p - n) / 2 * R instead of (p - n) / (2 R): the second-order term all but vanishes."""
    xi, rate = 0.5, 0.1
    alpha, w = toy.START
    for _ in range(200):
        w_prime = w - xi * 2 * (w - alpha)
        v = alpha
        r = 0.01 / abs(v)
        plus, minus = (2 * (alpha - (w + sign * r * v)) for sign in (1, -1))
        alpha -= rate * (w_prime - 2 - xi * ((plus - minus) / 2 * r))
        w -= rate * 2 * (w - alpha)
    assert alpha == pytest.approx(1.99995, abs=1e-6)
    assert toy.trajectory(xi, 200, order="second_fd").alpha[-1] == pytest.approx(1, abs=1e-9)


def test_other_starts_end_at_the_same_point():
    path = toy.trajectory(0.7, steps=160, start=(-1.0, 3.0))
    assert (path.alpha[0], path.w[0]) == (-1.0, 3.0)
    assert path.alpha[-1] == pytest.approx(5 / 6, abs=1e-6)


def test_single_precision_ends_at_the_same_point():
    path = toy.trajectory(0.5, dtype="float32")
    assert path.alpha.dtype == np.float32
    assert path.alpha[-1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"xi": 0.5, "steps": 0}, "steps must be at least 1. Received: steps=0"),
        ({"xi": -0.1}, "xi must be a finite number, 0 or more. Received: xi=-0.1"),
        ({"xi": float("nan")}, "xi must be a finite number"),
        ({"xi": float("inf")}, "xi must be a finite number"),
        ({"xi": 0.5, "order": "third"}, "'third'. Known: first, second_exact, second_fd"),
    ],
)
def test_bad_input_is_answered_in_words(arguments, words):
    with pytest.raises(InputError, match=words):
        toy.trajectory(**arguments)
