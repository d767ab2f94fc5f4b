"""How graphs are made: for export, under a strategy, for which device."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from darts_tf import collective

_exporting = contextvars.ContextVar("exporting", default=False)
_local_statistics = contextvars.ContextVar("local_statistics", default=False)
_keeping = contextvars.ContextVar("keeping", default=False)
_gradients_of = contextvars.ContextVar("gradients_of", default=("weights", "alphas"))
_full_precision = contextvars.ContextVar("full_precision", default=False)


@contextlib.contextmanager
def _within(setting: contextvars.ContextVar, value: Any) -> Iterator[None]:
    token = setting.set(value)
    try:
        yield
    finally:
        setting.reset(token)


def exporting() -> contextlib.AbstractContextManager:
    """While active, blocks are traced inline with stock ops, which converters can read."""
    return _within(_exporting, True)


def is_exporting() -> bool:
    """Whether the graph that is being made is one to export."""
    return _exporting.get()


def gradients_of(*wanted: str) -> contextlib.AbstractContextManager:
    """Within it, only these gradients are taken of what is computed: "weights", "alphas".

    The functions of blocks are kept whole in the graph, so what is not wanted of their gradients
    would be computed and thrown away; this leaves it out.
    """
    return _within(_gradients_of, wanted)


def wants_gradient_of(what: str) -> bool:
    """Whether a gradient with respect to "weights" or "alphas" may be taken."""
    return what in _gradients_of.get()


def keeping(everything: bool = True) -> contextlib.AbstractContextManager:
    """Within it, gradients keep what they would compute anew otherwise: less time, more memory."""
    return _within(_keeping, everything)


def is_keeping() -> bool:
    """Whether gradients keep all that they read."""
    return _keeping.get()


def local_statistics(local: bool = True) -> contextlib.AbstractContextManager:
    """Within it, BatchNorm has the statistics of each replica's part of the batch.

    To be entered within the step of a replica, whose thread does not see what was entered outside.
    """
    return _within(_local_statistics, local)


def full_precision() -> contextlib.AbstractContextManager:
    """Within it, layers compute in the type of their weights, not in the half of a mixed policy.

    Where two passes differ by less than half precision can tell apart, and for an export.
    """
    return _within(_full_precision, True)


def compute_dtype(layer: keras.layers.Layer) -> str:
    """The type in which a layer computes now. Layers that ask here cast by themselves."""
    return layer.variable_dtype if _full_precision.get() else layer.compute_dtype


def replicas() -> int:
    """Number of replicas over which BatchNorm takes its statistics.

    1 outside a replica context, and with local statistics.
    """
    return 1 if _local_statistics.get() else collective.count()


def on_gpu() -> bool:
    """Whether there is a GPU, for which TensorFlow's stock kernels are the fast ones."""
    return bool(tf.config.list_physical_devices("GPU"))
