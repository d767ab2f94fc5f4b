"""The product of a search cell's states with the weights of a node, for a loop over time.

    P(W, s) = (s_j o m) W       pre-activations c_j   (i, batch, 2 n), for i states (batch, n)
    S(W, c) = m o (c_j W^T)     of the states         i times (batch, n)
    R(c, s) = sum_j (s_j o m)^T c_j   of the weights  (n, 2 n)

Each is linear in both arguments, and the derivatives of each are the two others. For upstream
gradients u like the result:

                of W        of s        of c
    P           R(u, s)     S(W, u)
    S           R(c, u)                 P(W, u)
    R                       S(u, c)     P(u, s)

Written out, because a loop keeps for its gradient what a gradient function reads: these read each
state itself, not a stack of states for each node. The masks m count as constants.
"""

import tensorflow as tf

from darts_tf.space.fused import in_loop, tied


def masked_product(W: tf.Tensor, mask: tf.Tensor, *states: tf.Tensor) -> tf.Tensor:
    """(s_j o m) W of all states, as one product of matrices.

    Args:
        W: (n, 2 n).
        mask: m, (batch, n).
        *states: s_j, i tensors (batch, n).

    Returns:
        (i, batch, 2 n).
    """
    pre = _by_state(tf.matmul(_rows(tf.stack(states) * mask), W), len(states))
    return _tied(pre, "products", W, mask, *states)


def _of_states(W, mask, c):
    states = tf.unstack(_by_state(tf.matmul(_rows(c), W, transpose_b=True), c.shape[0]) * mask)
    return _tied(states, "states", W, mask, c)


def _of_weights(c, mask, *states):
    W = tf.matmul(_rows(tf.stack(states) * mask), _rows(c), transpose_a=True)
    return _tied(W, "weights", c, mask, *states)


def _rows(stacked):
    return tf.reshape(stacked, [-1, stacked.shape[-1]])


def _by_state(rows, count):
    return tf.reshape(rows, [count, -1, rows.shape[-1]])


def _tied(results, what, *arguments):
    # Outside of a loop tapes differentiate the operations themselves.
    return tied(results, arguments, f"darts_tf_masked_{what}") if in_loop() else results


@tf.RegisterGradient("darts_tf_masked_products")
def _gradient_of_products(op, u, *_):
    _, W, mask, *states = op.inputs
    return [None, _of_weights(u, mask, *states), None, *_of_states(W, mask, u)]


@tf.RegisterGradient("darts_tf_masked_states")
def _gradient_of_states(op, *upstream):
    *_, W, mask, c = op.inputs
    u = upstream[:-3]
    return [*[None] * len(u), _of_weights(c, mask, *u), None, masked_product(W, mask, *u)]


@tf.RegisterGradient("darts_tf_masked_weights")
def _gradient_of_weights(op, u, *_):
    _, c, mask, *states = op.inputs
    return [None, masked_product(u, mask, *states), None, *_of_states(u, mask, c)]
