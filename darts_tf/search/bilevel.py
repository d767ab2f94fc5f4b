"""The architecture gradient, three ways, as pure functions (paper, section 2.3, equations 6 to 8).

Symbols of the paper:

    w        all weights of the network, here as one vector
    alpha    the architecture parameters, a list of tensors
    xi       learning rate of the virtual step
    L_train  loss on a training batch, L_val on a validation batch: functions (w, alpha) -> scalar
    w'       w after the virtual step
    v        the gradient of L_val with respect to w at (w', alpha)

Nothing is assigned: no model is copied, no variable moved and moved back.

Under a strategy each replica's loss is its share of the global one, and `reduce` sums over the
replicas. It is applied to every gradient with respect to w before that gradient is used, since w'
and R depend on the global ones; the returned alpha gradients are shares again, left for the caller
to reduce once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from darts_tf.errors import unknown_name
from darts_tf.loss_scale import gradient
from darts_tf.search.orders import ORDERS
from darts_tf.space.tracing import full_precision, gradients_of

Alphas = list[tf.Tensor]
Loss = Callable[[tf.Tensor, Alphas], tf.Tensor]
"""A loss of (w, alpha). It may have a method `along(w, alpha, v)`, its derivative
d/de L(w + e v, alpha) at e = 0, for `second_exact`."""
Reduce = Callable[[tf.Tensor], tf.Tensor]
Gradient = Callable[[Loss, Loss, tf.Tensor, Alphas, "VirtualStep", Reduce], "ArchitectureGradient"]

FINITE_DIFFERENCE_STEP = 0.01
"""Length of the step in weight space of the finite difference (paper, footnote 2)."""


@dataclasses.dataclass(frozen=True)
class VirtualStep:
    """One step of gradient descent on w that is computed, not taken.

    It is what SGD with momentum would do next, without clipping unless told to:

        w' = w - xi * (mu * b + c * g + lambda * w),  c = min(1, clip_norm / (|g| + 1e-6))

    Attributes:
        xi: Learning rate.
        momentum: mu; 0 for the paper's plain step.
        buffer: b, the momentum buffer of the weight optimizer; a vector like w.
        weight_decay: lambda; a vector like w where it differs between the weights.
        clip_norm: Largest norm of g; None for c = 1. c counts as a constant: no gradient passes
            through it.
        clip_epsilon: What is added to |g|; PyTorch's clipping has 1e-6, Keras' nothing.
    """

    xi: tf.Tensor | float
    momentum: tf.Tensor | float = 0.0
    buffer: tf.Tensor | float = 0.0
    weight_decay: tf.Tensor | float = 0.0
    clip_norm: float | None = None
    clip_epsilon: float = 1e-6

    def __call__(self, w: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
        """w' for the gradient g of L_train at w."""
        g = g * self.clip_factor(g) if self.clip_norm is not None else g
        return w - self.xi * (self.momentum * self.buffer + g + self.weight_decay * w)

    def clip_factor(self, g: tf.Tensor) -> tf.Tensor:
        """c for the gradient g."""
        if self.clip_norm is None:
            return tf.ones([], g.dtype)
        return tf.stop_gradient(tf.minimum(self.clip_norm / (tf.norm(g) + self.clip_epsilon), 1.0))


class ArchitectureGradient(NamedTuple):
    """What an architecture step computes.

    Attributes:
        alphas: The gradient, one tensor like each of the alphas.
        validation_loss: L_val at the weights where it was evaluated: w (first) or w' (second).
    """

    alphas: Alphas
    validation_loss: tf.Tensor


def _identity(tensor: tf.Tensor) -> tf.Tensor:
    return tensor


def alpha_gradient(loss: Loss, w: tf.Tensor, alphas: Alphas) -> tuple[tf.Tensor, Alphas]:
    """Loss and its gradient with respect to alpha."""
    with gradients_of("alphas"), tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(alphas)
        value = loss(w, alphas)
    return value, gradient(tape, value, alphas, unconnected_gradients="zero")


def first(validation_loss: Loss, w: tf.Tensor, alphas: Alphas) -> ArchitectureGradient:
    """First order: the weights are taken for optimal as they are (xi = 0).

    g = d/dalpha L_val(w, alpha)
    """
    value, g = alpha_gradient(validation_loss, w, alphas)
    return ArchitectureGradient(g, value)


def _at_virtual_weights(train_loss, validation_loss, w, alphas, step, reduce):
    """What both second orders begin with.

    Returns:
        v = d/dw' L_val(w', alpha), the direct term d/dalpha L_val(w', alpha), L_val there, and
        xi * c, the factor of the product with v.
    """
    with gradients_of("weights"), tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(w)
        value = train_loss(w, alphas)
    g_train = reduce(gradient(tape, value, w))
    w_prime = step(w, g_train)

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([w_prime, *alphas])
        value = validation_loss(w_prime, alphas)
    v, *direct = gradient(tape, value, [w_prime, *alphas], unconnected_gradients="zero")
    return reduce(v), direct, value, step.xi * step.clip_factor(g_train)


def second_fd(
    train_loss: Loss,
    validation_loss: Loss,
    w: tf.Tensor,
    alphas: Alphas,
    step: VirtualStep,
    reduce: Reduce = _identity,
    length: float = FINITE_DIFFERENCE_STEP,
) -> ArchitectureGradient:
    """Second order as published: a central difference for the second derivative (equation 8).

        w'  = w - xi * (mu * b + c * d/dw L_train(w, alpha) + lambda * w)
        v   = d/dw' L_val(w', alpha)
        R   = length / |v|
        HVP = [d/dalpha L_train(w + R v, alpha) - d/dalpha L_train(w - R v, alpha)] / (2 R)
        g   = d/dalpha L_val(w', alpha) - xi * c * HVP

    On a network with ReLU or max pooling the difference is dominated by units that cross their kink
    between w - R v and w + R v, and its cosine to the exact product is low; `second_exact` has no
    such error.

    Where v = 0 the product is 0 and g is the direct term (the authors' code divides by zero).
    """
    v, direct, value, scale = _at_virtual_weights(
        train_loss, validation_loss, w, alphas, step, reduce
    )
    norm = tf.norm(v)
    # 1 / (2R) and R v, both 0 where v = 0.
    half_inverse = norm / (2 * length)
    displacement = length * tf.math.divide_no_nan(v, norm)
    with full_precision():  # R v is lost where w is rounded to half precision
        _, plus = alpha_gradient(train_loss, w + displacement, alphas)
        with tf.control_dependencies(plus):  # one after the other: half the memory
            w_minus = w - displacement
        _, minus = alpha_gradient(train_loss, w_minus, alphas)
    g = [d - scale * (p - m) * half_inverse for d, p, m in zip(direct, plus, minus, strict=True)]
    return ArchitectureGradient(g, value)


def second_exact(
    train_loss: Loss,
    validation_loss: Loss,
    w: tf.Tensor,
    alphas: Alphas,
    step: VirtualStep,
    reduce: Reduce = _identity,
) -> ArchitectureGradient:
    """Second order without approximation: the derivative of the one-step objective (equation 6).

        w' = w - xi * (mu * b + c * d/dw L_train(w, alpha) + lambda * w)
        g  = d/dalpha L_val(w'(alpha), alpha),  the total derivative, through the virtual step

    by nested tapes, or the same number in two parts (equation 7) where the training loss can be
    differentiated along a direction, which needs less memory and a smaller graph:

        v   = d/dw' L_val(w', alpha)
        HVP = d/dalpha s,   s = d/de L_train(w + e v, alpha) at e = 0
        g   = d/dalpha L_val(w', alpha) - xi * c * HVP
    """
    if hasattr(train_loss, "along"):
        v, direct, value, scale = _at_virtual_weights(
            train_loss, validation_loss, w, alphas, step, reduce
        )
        _, hvp = alpha_gradient(lambda w, alphas: train_loss.along(w, alphas, v), w, alphas)
        g = [d - scale * h for d, h in zip(direct, hvp, strict=True)]
        return ArchitectureGradient(g, value)
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(alphas)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(w)
            value = train_loss(w, alphas)
        w_prime = step(w, reduce(gradient(inner, value, w)))
        value = validation_loss(w_prime, alphas)
    g = gradient(outer, value, alphas, unconnected_gradients="zero")
    return ArchitectureGradient(g, value)


def architecture_gradient(
    order: str | Gradient,
    train_loss: Loss,
    validation_loss: Loss,
    w: tf.Tensor,
    alphas: Sequence[tf.Tensor],
    step: VirtualStep,
    reduce: Reduce = _identity,
) -> ArchitectureGradient:
    """The architecture gradient of an order by name.

    Args:
        order: "first", "second_fd" or "second_exact"; or a function with the arguments of
            `second_exact`.
        train_loss: L_train.
        validation_loss: L_val.
        w: The weights as one vector.
        alphas: The architecture parameters.
        step: The virtual step; not used by "first".
        reduce: Sums a gradient with respect to w over the replicas.

    Raises:
        InputError: The order is not known; the message lists the known ones.
    """
    alphas = list(alphas)
    if callable(order):
        return order(train_loss, validation_loss, w, alphas, step, reduce)
    if order == "first":
        return first(validation_loss, w, alphas)
    if order == "second_fd":
        return second_fd(train_loss, validation_loss, w, alphas, step, reduce)
    if order == "second_exact":
        return second_exact(train_loss, validation_loss, w, alphas, step, reduce)
    raise unknown_name("order", order, ORDERS)
