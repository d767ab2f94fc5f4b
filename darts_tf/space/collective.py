"""Sums over replicas that can stand in a function which many blocks share.

A strategy's sum cannot be called from a nested function; without one, every block would be traced
anew for every replica: minutes for a supernet. TensorFlow's own operation can. It needs two things
that differ from call to call, and hence are arguments of the function: a number by which the
replicas find each other, and a resource, because a graph keeps calls with effects that name none in
one order: one replica would wait for a sum that the other has not begun.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Iterator

import tensorflow as tf

from darts_tf.space.tracing import replicas

GROUP = 0x0DA275
"""With the number of replicas, the key of their group; a strategy's own keys count from 1."""

SUMS_OF_A_CALL = 2**10
"""More than stand in the function of a block, with its gradients; those of a mixed operation have
some fifty."""

Call = tuple[tf.Tensor, tf.Tensor]
"""What a function is called with: the number of the call and its resource."""

_within: contextvars.ContextVar[tuple | None] = contextvars.ContextVar("within", default=None)
_calls: dict[str, Iterator[int]] = {}


def next_call() -> Call | None:
    """Arguments for a function with sums in it; None for one replica.

    Every replica makes the same calls in the same order, and so gives them the same numbers.
    """
    if replicas() == 1:
        return None
    # Of a variable that nobody makes: the graph only looks at who names it.
    resource = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="darts_tf_order")
    # Counted over all graphs of the process: a number that two of them share is an error.
    number = next(_calls.setdefault(resource.device, itertools.count()))
    return tf.constant(SUMS_OF_A_CALL * number), resource


@contextlib.contextmanager
def within_call(call: Call | None) -> Iterator[None]:
    """Within it, `sum_over_replicas` is part of the function that was called so."""
    # Each replica has a trace of its own; in all of them, and their gradients, the sums are counted
    # in the same order.
    token = _within.set(call and (*call, itertools.count()))
    try:
        yield
    finally:
        _within.reset(token)


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over all replicas, which each of them gets; differentiable."""
    if replicas() == 1:
        return value
    within = _within.get()
    if within is None:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)
    return _sum(value, replicas(), *within)


def _sum(value, count, call, resource, sums):
    @tf.custom_gradient
    def compute(value):
        total = tf.raw_ops.CollectiveReduceV2(
            input=value,
            group_size=count,
            group_key=GROUP + count,
            instance_key=call + next(sums),
            ordering_token=[resource],
            merge_op="Add",
            final_op="Id",
        )

        def backward(gradient):
            # The value of each replica is part of the sum, and so of the loss, of all replicas.
            # What a gradient's own gradient needs must be a tensor of the gradient's graph.
            return _sum(gradient, count, tf.identity(call), tf.identity(resource), sums)

        return total, backward

    return compute(value)
