"""Elementwise functions as one kernel each: forward, backward, and the backward of the backward.

TensorFlow runs every elementwise operation as a pass over memory of its own and keeps each result
for the gradient. A recurrent search cell has dozens of them on large tensors between its matrix
products. Here such a function is compiled as a whole by XLA, keeps nothing but its inputs, and
computes its gradient from them by another such function, to any order of differentiation. Matrix
products stay outside: XLA's are slower on a CPU.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_NUMBERS = itertools.count()

_LOOP = "WhileBody"
"""In the names of the graphs of a loop's body and of its gradients. Gradients in them are always
built from the operations; elsewhere tapes, which do not know of overridden gradients, may do it."""


def fused(
    function: Callable[..., Any], separate: Sequence[int] = (), jit_compile: bool = True
) -> Callable[..., Any]:
    """A function of tensors that runs as one kernel and whose gradient does.

    Args:
        function: Takes tensors, of which those of whole numbers have no gradient, and returns a
            tensor or a tuple of tensors; no variables, no matrix products, nothing that depends on
            anything but its arguments.
        separate: Arguments, by position, whose gradient is computed by a kernel of its own. It
            is left out of the graph where nobody asks for that gradient; those of all other
            arguments are computed together.
        jit_compile: Whether XLA compiles it; without, the same operations run one by one.

    Returns:
        The function. Give it tensors, positionally.
    """
    compiled = tf.function(function, jit_compile=jit_compile, autograph=False)
    pulls: dict[tuple, Callable] = {}  # the gradient functions, each made once

    def pull(wanted: tuple[int, ...], count: int) -> Callable[..., Any]:
        """(arguments, upstream gradients) -> the gradients of the wanted arguments."""

        def gradient(*values):
            arguments, upstream = list(values[:count]), list(values[count:])
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([arguments[i] for i in wanted])
                results = tf.nest.flatten(function(*arguments))
            gradients = tape.gradient(
                results,
                [arguments[i] for i in wanted],
                output_gradients=upstream,
                unconnected_gradients="zero",
            )
            return tuple(map(tf.convert_to_tensor, gradients))

        if (wanted, count) not in pulls:
            pulls[wanted, count] = fused(gradient, separate, jit_compile)
        return pulls[wanted, count]

    name = f"darts_tf_fused_{next(_NUMBERS)}"
    counts = []

    @tf.RegisterGradient(name)
    def _gradient(op, *upstream):
        count = counts[0]
        arguments, upstream = op.inputs[-count:], upstream[:-count]
        found = {}
        floating = [i for i in range(count) if arguments[i].dtype.is_floating]
        together = tuple(i for i in floating if i not in separate)
        for wanted in (together, *((i,) for i in separate if i in floating)):
            if wanted:
                gradients = tf.nest.flatten(pull(wanted, count)(*arguments, *upstream))
                found.update(zip(wanted, gradients, strict=True))
        return [None] * len(upstream) + [found.get(i) for i in range(count)]

    def call(*arguments):
        counts[:] = [len(arguments)]
        if tf.executing_eagerly():
            return compiled(*arguments)
        if in_loop():
            # Nothing but the gradient above is ever asked for here. TensorFlow need not prepare
            # another for each call, which takes most of the tracing's time.
            results = compiled(*map(tf.stop_gradient, arguments))
        else:
            results = compiled(*arguments)  # a tape takes the function's own gradient
        return tied(results, arguments, name)

    return call


def in_loop() -> bool:
    """Whether what is called now becomes part of a loop's body, or of a gradient of one."""
    return _LOOP in type(tf.compat.v1.get_default_graph()).__name__


def tied(results: Any, arguments: Sequence[Any], gradient: str) -> Any:
    """The results of a function, with a registered gradient (`tf.RegisterGradient`).

    The gradient reads its arguments from the operation that it belongs to: after the results, its
    inputs are the arguments. Those that `tf.custom_gradient` keeps are of the graph in which the
    function was called, and the gradient of a gradient of a loop is made in another.

    Args:
        results: A tensor, or a structure of tensors.
        arguments: What they were computed from.
        gradient: The name of the gradient.
    """
    flat = tf.nest.flatten(results)
    with tf.compat.v1.get_default_graph().gradient_override_map({"IdentityN": gradient}):
        both = tf.identity_n([*flat, *map(tf.convert_to_tensor, arguments)])
    return tf.nest.pack_sequence_as(results, both[: len(flat)])
