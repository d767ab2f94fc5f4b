"""Checks of the architecture gradients on the toy problem, where they are known in closed form."""

from collections.abc import Iterator

import tensorflow as tf

from darts_tf.search import bilevel, toy
from darts_tf.search.verification import Check


def toy_checks() -> Iterator[Check]:
    """The gradients and the fixed points of the toy problem, which are known in closed form."""

    points = ((2.0, -2.0), (1.3, 0.4), (-0.7, 1.1))
    rates = (0.0, 0.2, 0.5, 0.7)
    graph = tf.function(_toy_gradient, autograph=False)
    gradients = {
        (order, *point, xi): float(graph(order, *map(_scalar, (*point, xi))))
        for order in bilevel.ORDERS
        for point in points
        for xi in rates
    }
    for order in ("second_exact", "second_fd"):
        # The derivative of L_val(w'(alpha), alpha), w' = (1 - 2 xi) w + 2 xi alpha.
        errors = [
            abs(gradients[order, alpha, w, xi] - ((1 - 2 * xi) * w + 4 * xi * alpha - 2))
            for alpha, w in points
            for xi in rates
        ]
        yield Check(f"{order}: closed form", max(errors), 1e-10)
        errors = [
            abs(gradients[order, alpha, w, 0.0] - gradients["first", alpha, w, 0.0])
            for alpha, w in points
        ]
        yield Check(f"{order} at xi = 0: first", max(errors), 1e-12)
    for order in ("second_exact", "second_fd"):
        for xi, name in zip(rates, ("2", "10/7", "1", "5/6"), strict=True):
            path = toy.trajectory(xi, steps=200, order=order)
            error = max(abs(end - toy.fixed_point(xi)) for end in (path.alpha[-1], path.w[-1]))
            yield Check(f"{order}: fixed point {name} of xi = {xi:g}", error, 1e-6)


def _scalar(value: float) -> tf.Tensor:
    return tf.constant(value, tf.float64)


def _toy_gradient(order, alpha, w, xi):
    step, losses = bilevel.VirtualStep(xi), (toy.train_loss, toy.validation_loss)
    gradient = bilevel.architecture_gradient(order, *losses, tf.reshape(w, [1]), [alpha], step)
    return gradient.alphas[0]
