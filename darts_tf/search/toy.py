"""The closed-form problem that shows what the virtual step is for (paper, section 2.3, figure 2).

    L_val(w, alpha)   = alpha w - 2 alpha + 1
    L_train(w, alpha) = w^2 - 2 alpha w + alpha^2

The inner optimum is w*(alpha) = alpha, so L_val(w*(alpha), alpha) = (alpha - 1)^2 with the solution
(1, 1). Alternating gradient descent ends at alpha = w = 2 / (1 + 2 xi): at 2 for the first order
(xi = 0) and exactly at the solution for xi = 1/2, where the virtual step is a Newton step.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.search import bilevel

START = (2.0, -2.0)
SOLUTION = (1.0, 1.0)


def validation_loss(w: tf.Tensor, alphas: bilevel.Alphas) -> tf.Tensor:
    """L_val; w is a vector of one number, alphas a list of one scalar."""
    (alpha,) = alphas
    return tf.reduce_sum(alpha * w - 2 * alpha + 1)


def train_loss(w: tf.Tensor, alphas: bilevel.Alphas) -> tf.Tensor:
    """L_train; w is a vector of one number, alphas a list of one scalar."""
    (alpha,) = alphas
    return tf.reduce_sum(w * w - 2 * alpha * w + alpha * alpha)


def fixed_point(xi: float) -> float:
    """Where alternating descent ends: alpha = w = 2 / (1 + 2 xi)."""
    return 2 / (1 + 2 * xi)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What alternating descent does.

    Attributes:
        alpha, w: (steps + 1,) values, the start first.
        gradient: (steps,) gradient used for alpha.
    """

    alpha: np.ndarray
    w: np.ndarray
    gradient: np.ndarray


def trajectory(
    xi: float,
    steps: int = 100,
    alpha_rate: float = 0.1,
    weight_rate: float = 0.1,
    order: str = "second_exact",
    start: tuple[float, float] = START,
    dtype: str = "float64",
) -> Trajectory:
    """Alternates a step of alpha and a step of w with the new alpha, both plain gradient descent.

    Args:
        xi: Learning rate of the virtual step; 0 is the first order whatever `order` says.
        steps: Number of steps, at least 1.
        alpha_rate, weight_rate: Learning rates.
        order: "first", "second_fd" or "second_exact"; the last two agree, since L_train is
            quadratic.
        start: (alpha, w).
        dtype: "float64" or "float32".

    Raises:
        InputError: steps is under 1, xi is negative or not finite, or the order is not known.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1. Received: steps={steps}.")
    if not (np.isfinite(xi) and xi >= 0):
        raise InputError(f"xi must be a finite number, 0 or more. Received: xi={xi}.")
    step = _step(order, dtype)
    alpha, w = (tf.constant(value, dtype) for value in start)
    path, gradients = [(alpha, w)], []
    for _ in range(steps):
        g, alpha, w = step(
            alpha, w, *(tf.constant(n, dtype) for n in (xi, alpha_rate, weight_rate))
        )
        path.append((alpha, w))
        gradients.append(g)
    alphas, weights = np.array(path).T
    return Trajectory(alphas, weights, np.array(gradients))


@functools.cache
def _step(order: str, dtype: str):
    """One step as a graph, shared by all trajectories of an order."""

    @tf.function(autograph=False)
    def step(alpha, w, xi, alpha_rate, weight_rate):
        vector = tf.reshape(w, [1])
        gradient = bilevel.architecture_gradient(
            order, train_loss, validation_loss, vector, [alpha], bilevel.VirtualStep(xi)
        )
        (g,) = gradient.alphas
        alpha -= alpha_rate * g
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = train_loss(w, [alpha])
        return g, alpha, w - weight_rate * tape.gradient(loss, w)

    return step
