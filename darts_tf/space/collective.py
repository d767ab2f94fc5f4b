"""Sums over replicas that can stand in a function which many blocks share, or in a loop.

A strategy's sum cannot be called from a nested function; without one, every block would be traced
anew for every replica: minutes for a supernet. TensorFlow's own operation can. It needs two things
that differ from call to call, and hence are arguments of the function: a number by which the
replicas find each other, and a resource, because a graph keeps calls with effects that name none in
one order: one replica would wait for a sum that the other has not begun.

In a loop the number is that of the operation, the same in every iteration. That is enough: each
replica's loop runs its sums in the same order, so none begins one anew before all have left it, as
long as there are two or more.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from darts_tf.space.tracing import replicas

GROUP = 0x0DA275
"""With the number of replicas, the key of their group; a strategy's own keys count from 1."""

SUMS_OF_A_CALL = 2**10
"""More than stand in the function of a block, with its gradients; those of a mixed operation have
some fifty."""

Call = tuple[tf.Tensor, tf.Tensor]
"""What a function is called with: the first number of its sums, and its resource."""

_within: contextvars.ContextVar = contextvars.ContextVar("within", default=None)
_calls: dict[str, Iterator[int]] = {}


def _resource() -> tf.Tensor:
    """Of a variable that all share: the graph only looks at who names it."""
    return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="darts_tf_order")


def _first_number(resource: tf.Tensor) -> tf.Tensor:
    """Of `SUMS_OF_A_CALL` numbers that no other call of the process has, in any of its graphs.

    Every replica makes the same calls in the same order, and so gives them the same numbers.
    """
    calls = _calls.setdefault(resource.device, itertools.count())
    return tf.constant(SUMS_OF_A_CALL * next(calls))


class _InFunction(NamedTuple):
    """Where a sum stands: in a function, whose arguments number and resource are."""

    first: tf.Tensor
    resource: tf.Tensor
    sums: Iterator[int]

    def sum(self, value, count):
        return _reduce(value, self.first + next(self.sums), self.resource, count)

    def of_gradient(self):
        # What a gradient's own gradient needs must be a tensor of the gradient's graph.
        return self._replace(first=tf.identity(self.first), resource=tf.identity(self.resource))


class _InLoop(NamedTuple):
    """Where a sum stands: in a loop, from outside of which the resource is.

    The graphs of its gradients, whichever they are, can all reach that.
    """

    resource: tf.Tensor

    def sum(self, value, count):
        # TensorFlow would look for a gradient inside, and has none; it is written below.
        value = tf.stop_gradient(value)
        return _reduce_apart(value, _first_number(self.resource), self.resource, count)

    def of_gradient(self):
        return self


def next_call() -> Call | None:
    """Arguments for a function with sums in it; None for one replica."""
    if replicas() == 1:
        return None
    resource = _resource()
    return _first_number(resource), resource


@contextlib.contextmanager
def within_call(call: Call | None) -> Iterator[None]:
    """Within it, `sum_over_replicas` is part of the function that was called so."""
    # Each replica has a trace of its own; in all of them, and their gradients, the sums are counted
    # in the same order.
    token = _within.set(call and _InFunction(*call, itertools.count()))
    try:
        yield
    finally:
        _within.reset(token)


@contextlib.contextmanager
def within_loop() -> Iterator[None]:
    """Within it, `sum_over_replicas` is part of a loop, which is made within it too.

    The loop must have two sums or more, one after another.
    """
    if replicas() == 1:
        yield
        return
    resource = _resource()
    # Gradients of a loop read the shape of every variable that it names, so this one must be there.
    with tf.init_scope(), tf.device(resource.device):
        tf.raw_ops.AssignVariableOp(resource=_resource(), value=0.0)
    token = _within.set(_InLoop(resource))
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
    return _sum(value, replicas(), within)


def _sum(value, count, within):
    @tf.custom_gradient
    def compute(value):
        def backward(gradient):
            # The value of each replica is part of the sum, and so of the loss, of all replicas.
            return _sum(gradient, count, within.of_gradient())

        return within.sum(value, count), backward

    return compute(value)


def _reduce(value, number, resource, count):
    return tf.raw_ops.CollectiveReduceV2(
        input=value,
        group_size=count,
        group_key=GROUP + count,
        instance_key=number,
        ordering_token=[resource],
        merge_op="Add",
        final_op="Id",
    )


# TensorFlow adds the name of the loop and the iteration to the number, and each replica's loop has
# a name of its own. A function that is not inlined stands in no loop.
_reduce_apart = tf.function(_reduce, autograph=False, experimental_attributes={"_noinline": True})
