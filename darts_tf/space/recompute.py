"""Recomputation: a function whose inside is computed again in the backward pass, not kept."""

import contextvars
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs), of which only the inputs are kept for its gradient.

    (`tf.recompute_grad` does not repeat the settings of `tracing` and `dual` that were in force at
    the first computation, and a graph would compute its repetition at once.)

    Args:
        function: A pure function of nested tensors.
        *inputs: Nested tensors, all of floating point.

    Returns:
        What the function returns: nested tensors.
    """
    settings = contextvars.copy_context()
    structure = None

    @tf.custom_gradient
    def compute(*flat):
        nonlocal structure
        outputs = function(*tf.nest.pack_sequence_as(inputs, flat))
        structure = outputs

        def backward(*gradients):
            # Not before the gradients are there: else all repetitions would start, and be kept,
            # together.
            with tf.control_dependencies(gradients):
                again = [tf.identity(t) for t in flat]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(again)
                repeated = settings.run(function, *tf.nest.pack_sequence_as(inputs, again))
            return tape.gradient(tf.nest.flatten(repeated), again, output_gradients=gradients)

        return tuple(tf.nest.flatten(outputs)), backward

    flat = compute(*tf.nest.flatten(inputs))
    return tf.nest.pack_sequence_as(structure, flat)
