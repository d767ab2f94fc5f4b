"""Sums over replicas that can stand in a function which many blocks share, or in a loop.

A strategy's sum cannot be called from a nested function; without one, every block would be traced
anew for every replica: minutes for a supernet. TensorFlow's own operation can. Two things must be
so for it:

Every all-reduce needs an instance key of its own. A shared function is called many times, so each
call passes it its first key.

No replica may wait for a sum that another begins only later. A graph runs what has effects, as a
sum has, in one order, but the graph of a strategy's step has the sums of all replicas: the first of
one replica could wait behind the last of another. So what a replica computes with sums is a
function of its own, `in_one_order`. (The other way, a resource of each replica that every call
names, lets TensorFlow look into each of the calls, again and again: minutes too.)

In a loop the number is that of the operation, the same in every iteration. That is enough: each
replica's loop runs its sums in the same order, so none begins one anew before all have left it, as
long as there are two or more.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

GROUP = 0x0DA275
"""With the number of replicas, the key of their group; a strategy's own keys count from 1."""

SUMS_OF_A_CALL = 2**10
"""More than stand in the function of a block, with its gradients; those of a mixed operation have
some fifty."""

Call = tf.Tensor
"""What a function is called with: the first number of its sums."""

_within: contextvars.ContextVar = contextvars.ContextVar("within", default=None)
_calls: dict[str, Iterator[int]] = {}


def count() -> int:
    """Number of replicas that share the global batch; 1 outside a step of a strategy."""
    if tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_replica_context().num_replicas_in_sync


def in_one_order(compute: Callable[[], Any]) -> Any:
    """What a function computes, in which sums over replicas may stand in further functions.

    Args:
        compute: A function of no arguments that returns a nest of tensors. What it assigns must be
            each replica's own.
    """
    if count() == 1 or tf.executing_eagerly():
        return compute()

    def ordered(resource):
        token = _within.set(_InOrder())
        try:
            return compute()
        finally:
            _within.reset(token)

    # What names a resource keeps to the order of that one only: not after the other replicas' sums.
    return tf.function(ordered, autograph=False)(_resource())


def is_in_one_order() -> bool:
    """Whether a function with sums over replicas in it can be called here."""
    return _within.get() is not None


def next_call() -> Call:
    """The argument for a function with sums in it."""
    return _first_number()


def _first_number() -> tf.Tensor:
    """Of `SUMS_OF_A_CALL` numbers that no other call of the process has, in any of its graphs.

    Every replica makes the same calls in the same order, and so gives them the same numbers.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    calls = _calls.setdefault(int(tf.get_static_value(replica)), itertools.count())
    return tf.constant(SUMS_OF_A_CALL * next(calls))


class _InOrder:
    """Where a sum stands: in the function of `in_one_order` itself."""

    def sum(self, value, count):
        return _reduce(value, _first_number(), [], count)

    def of_gradient(self):
        return self


class _InFunction(NamedTuple):
    """Where a sum stands: in a function that is called there, whose argument the number is."""

    first: tf.Tensor
    sums: Iterator[int]

    def sum(self, value, count):
        return _reduce(value, self.first + next(self.sums), [], count)

    def of_gradient(self):
        # What a gradient's own gradient needs must be a tensor of the gradient's graph.
        return self._replace(first=tf.identity(self.first))


class _InLoop(NamedTuple):
    """Where a sum stands: in a loop, from outside of which the resource is.

    The graphs of its gradients, whichever they are, can all reach that.
    """

    resource: tf.Tensor

    def sum(self, value, count):
        # TensorFlow would look for a gradient inside, and has none; it is written below.
        value = tf.stop_gradient(value)
        return _reduce_apart(value, _first_number(), [self.resource], count)

    def of_gradient(self):
        return self


@contextlib.contextmanager
def within_call(call: Call | None) -> Iterator[None]:
    """Within it, `sum_over_replicas` is part of the function that was called so."""
    # Each replica has a trace of its own; in all of them, and their gradients, the sums are counted
    # in the same order.
    token = _within.set(None if call is None else _InFunction(call, itertools.count()))
    try:
        yield
    finally:
        _within.reset(token)


@contextlib.contextmanager
def within_loop() -> Iterator[None]:
    """Within it, `sum_over_replicas` is part of a loop, which is made within it too.

    The loop must have two sums or more, one after another.
    """
    if count() == 1:
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


def _resource() -> tf.Tensor:
    """Of a variable that all share: the graph only looks at who names it."""
    return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="darts_tf_order")


def in_gradient() -> Callable[[], contextlib.AbstractContextManager]:
    """Captures the all-reduce context, so that a custom gradient can restore it later.

    Returns:
        Makes a context in which that gradient can call `sum_over_replicas`.
    """
    within = _within.get()

    @contextlib.contextmanager
    def again():
        token = _within.set(within and within.of_gradient())
        try:
            yield
        finally:
            _within.reset(token)

    return again


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over all replicas, which each of them gets; differentiable."""
    if count() == 1:
        return value
    within = _within.get()
    if within is None:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)
    return _sum(value, count(), within)


def _sum(value, count, within):
    @tf.custom_gradient
    def compute(value):
        def backward(gradient):
            # The value of each replica is part of the sum, and so of the loss, of all replicas.
            return _sum(gradient, count, within.of_gradient())

        return within.sum(value, count), backward

    return compute(value)


def of_each_replica(value: tf.Tensor) -> tf.Tensor:
    """The vectors of all replicas, (number of replicas, size), by one sum; differentiable."""
    if count() == 1:
        return value[None]
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    own = tf.one_hot(replica, count(), dtype=value.dtype)
    return sum_over_replicas(own[:, None] * value)


def _reduce(value, number, resources, count):
    return tf.raw_ops.CollectiveReduceV2(
        input=value,
        group_size=count,
        group_key=GROUP + count,
        instance_key=number,
        ordering_token=resources,
        merge_op="Add",
        final_op="Id",
    )


# TensorFlow adds the name of the loop and the iteration to the number, and each replica's loop has
# a name of its own. A function that is not inlined stands in no loop.
_reduce_apart = tf.function(_reduce, autograph=False, experimental_attributes={"_noinline": True})
