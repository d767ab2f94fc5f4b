"""What recurrent cells are made of: pure functions, and a loop over time that is traced once.

Symbols, as in the authors' code and the paper's highway form (after ENAS):

    x, h        input and last hidden state, (batch, width)
    m_x, m_h    dropout masks of input and states, the same at all time steps
    W0, W_i     weights of node 0 (2 width, 2 width) and of node i (width, 2 width); no biases
    s_0 .. s_N  the states of the nodes; the next hidden state is the mean of some of them
    [c; h]      what a product gives: the gate's half and the candidate's half of its columns
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from darts_tf.collective import sum_over_replicas

MOMENTUM, EPSILON = 0.9, 1e-5
"""Of the search cell's BatchNorm; PyTorch counts its momentum the other way round (0.1)."""

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "tanh": tf.tanh,
    "relu": tf.nn.relu,
    "sigmoid": tf.sigmoid,
    "identity": tf.identity,
}
"""What the primitives compute; `none` is not among them, as it adds nothing."""

INITIAL_RANGE = 0.04
"""All weights start uniform in +-0.04, as published."""


def over_time(
    step: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]],
    inputs: tf.Tensor,
    state: tf.Tensor,
    extra: Sequence[tuple[Any, tf.DType]] = (),
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Runs a step over a sequence; it is traced once, whatever the length.

    Args:
        step: (input of a time step, state) -> (next state, more tensors ...).
        inputs: (time, ...).
        state: (batch, width), the first state.
        extra: Shape and type of each of the further tensors.

    Returns:
        The states after each step (time, batch, width), the last of them, and the further tensors
        (time, ...).
    """
    length = tf.shape(inputs)[0]
    source = tf.TensorArray(inputs.dtype, length, element_shape=inputs.shape[1:]).unstack(inputs)
    shapes = [(state.shape, state.dtype), *extra]
    arrays = [tf.TensorArray(dtype, length, element_shape=shape) for shape, dtype in shapes]

    def body(t, state, arrays):
        results = step(source.read(t), state)
        written = [a.write(t, r) for a, r in zip(arrays, results, strict=True)]
        return t + 1, tf.ensure_shape(results[0], state.shape), written

    _, last, arrays = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (tf.constant(0), state, arrays),
        parallel_iterations=1,
        maximum_iterations=length,
    )
    outputs, *rest = (array.stack() for array in arrays)
    return outputs, last, rest


def highway(pre: tf.Tensor, state: tf.Tensor, activation=tf.tanh) -> tf.Tensor:
    """s + sigma(c) o (f(h) - s) of [c; h] = pre (..., 2 width) and s = state (..., width)."""
    c, h = tf.split(pre, 2, axis=-1)
    return state + tf.sigmoid(c) * (activation(h) - state)


def batch_norm(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(normalised, mean, biased variance) of (batch, width) by the moments over the batch.

    Plain arithmetic: `tf.nn.moments` is wrong in its second derivative. The moments are in float32
    at half precision.
    """
    wide = _wide(x)
    mean = tf.reduce_mean(wide, 0)
    centred = wide - mean
    variance = tf.reduce_mean(tf.square(centred), 0)
    return tf.cast(centred * tf.math.rsqrt(variance + EPSILON), x.dtype), mean, variance


def _wide(x: tf.Tensor) -> tf.Tensor:
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


def global_moments(x: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(mean, biased variance) of the parts (batch, width) of all replicas.

    Two sums, the second of squares about the mean, for the reason that `normalisation` gives.

    Args:
        x: This replica's part.
        count: Rows of all parts.
    """
    x = _wide(x)
    mean = sum_over_replicas(tf.reduce_sum(x, 0)) / count
    squares = tf.reduce_sum(tf.math.squared_difference(x, mean), 0)
    return mean, sum_over_replicas(squares) / count


def normalise(x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """(batch, width) by given moments (width,), in their type."""
    wide = tf.cast(x, mean.dtype)
    return tf.cast((wide - mean) * tf.math.rsqrt(variance + EPSILON), x.dtype)


def mixed_operation(
    pre: tf.Tensor, state: tf.Tensor, weights: tf.Tensor, primitives: Sequence[str]
) -> tf.Tensor:
    """The mixed operation on the edge from node j.

        sum_k p_k (s_j + sigma(c_j) o (f_k(h_j) - s_j))
            = P s_j + sigma(c_j) o (sum_k p_k f_k(h_j) - P s_j),   P = sum_k p_k

    k runs over the primitives other than `none`, which keeps its share of the softmax. The second
    line needs one gate instead of one for each candidate.

    Args:
        pre: [c_j; h_j] = (s_j o m_h) W_i, (batch, 2 width).
        state: s_j, (batch, width).
        weights: p, (number of primitives,).
        primitives: Their names.

    Returns:
        (batch, width).
    """
    c, h = tf.split(pre, 2, axis=-1)
    weights = tf.cast(weights, pre.dtype)
    mixed, share = 0.0, 0.0
    for k, name in enumerate(primitives):
        if name != "none":
            mixed += weights[k] * ACTIVATIONS[name](h)
            share += weights[k]
    through = share * state
    return through + tf.sigmoid(c) * (mixed - through)
