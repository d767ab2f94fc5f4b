"""Dual numbers: a network's outputs with their derivative along a direction of its weights.

The exact second order needs d/dalpha of s = d/de L(w + e v, alpha) at e = 0, which is the product
of the mixed second derivative with v. Nested tapes compute it by going back through the backward
pass. Here every tensor function takes and returns pairs (value, derivative along v) instead, so
that s comes out of one pass forward and its gradient out of one pass backward: the same number,
with half the memory and a third of the graph.

The functions of `darts_tf.space.functional` accept `Dual` in place of tensors by these decorators.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


class Dual(NamedTuple):
    """A tensor x(e) at e = 0 and its derivative; None stands for a derivative of zero."""

    value: tf.Tensor
    tangent: tf.Tensor | None

    @property
    def shape(self) -> tf.TensorShape:
        """That of the value."""
        return self.value.shape

    @property
    def dtype(self) -> tf.DType:
        """That of the value."""
        return self.value.dtype


Number = tf.Tensor | Dual


_directions = contextvars.ContextVar("directions", default=None)


@contextlib.contextmanager
def along(directions: Mapping[int, tf.Tensor] | None) -> Iterator[None]:
    """While active, `read` returns weights together with their tangents.

    Args:
        directions: The derivative of each weight, by the id of its variable; None for tensors.
    """
    token = _directions.set(directions)
    try:
        yield
    finally:
        _directions.reset(token)


def current_directions() -> Mapping[int, tf.Tensor] | None:
    """What `along` was given; None outside of it."""
    return _directions.get()


def read(variable: keras.Variable | None) -> Number | None:
    """The present value of a weight, with its derivative within `along`."""
    if variable is None:
        return None
    now, directions = tf.convert_to_tensor(variable), _directions.get()
    return now if directions is None else Dual(now, directions[id(variable)])


def is_dual(*numbers: Number) -> bool:
    """Whether one of them has a derivative."""
    return any(isinstance(number, Dual) for number in numbers)


def value(x: Number) -> tf.Tensor:
    """The value without its derivative."""
    return x.value if isinstance(x, Dual) else x


def tangent(x: Number) -> tf.Tensor | None:
    """The derivative; None for zero."""
    return x.tangent if isinstance(x, Dual) else None


def total(terms: Sequence[Number]) -> Number:
    """The sum: of values, and of derivatives."""
    if not is_dual(*terms):
        return tf.add_n(terms)
    tangents = [tangent(term) for term in terms if tangent(term) is not None]
    return Dual(tf.add_n([value(t) for t in terms]), tf.add_n(tangents) if tangents else None)


def join(parts: Sequence[Number]) -> Number:
    """Joined in the last axis: values, and derivatives."""
    if not is_dual(*parts):
        return tf.concat(parts, -1)
    values = [value(part) for part in parts]
    tangents = [
        tf.zeros_like(v) if tangent(p) is None else tangent(p)
        for v, p in zip(values, parts, strict=True)
    ]
    return Dual(tf.concat(values, -1), tf.concat(tangents, -1))


def linear(function: Callable) -> Callable:
    """For functions that are linear in their first argument: (f x)' = f x'."""

    @functools.wraps(function)
    def apply(x, *settings, **named):
        if not isinstance(x, Dual):
            return function(x, *settings, **named)
        derivative = None if x.tangent is None else function(x.tangent, *settings, **named)
        return Dual(function(x.value, *settings, **named), derivative)

    return apply


def bilinear(function: Callable) -> Callable:
    """For functions that are linear in each of their first two: f(x, k)' = f(x', k) + f(x, k')."""

    @functools.wraps(function)
    def apply(x, kernel, *settings, **named):
        if not is_dual(x, kernel):
            return function(x, kernel, *settings, **named)
        terms = []
        if tangent(x) is not None:
            terms.append(function(tangent(x), value(kernel), *settings, **named))
        if tangent(kernel) is not None:
            terms.append(function(value(x), tangent(kernel), *settings, **named))
        y = function(value(x), value(kernel), *settings, **named)
        return Dual(y, tf.add_n(terms) if terms else None)

    return apply


def symmetric(function: Callable[[tf.Tensor], tf.Tensor], x: Number) -> Number:
    """For functions whose Jacobian is symmetric, as that of everything elementwise: f(x)' = J x'.

    A product with J is then what backpropagation computes.
    """
    if not isinstance(x, Dual):
        return function(x)
    if x.tangent is None:
        return Dual(function(x.value), None)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x.value)
        y = function(x.value)
    return Dual(y, tape.gradient(y, x.value, output_gradients=x.tangent))


@linear
def scaled(x: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """factor * x for a factor without a derivative."""
    return tf.cast(factor, x.dtype) * x
