"""How the function of a block is computed: traced once, for all blocks of equal geometry.

A supernet of hundreds of mixed operations is then a graph of calls to a few functions, several
times faster to build than one flat graph. A model owns its traces: they go when it goes.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import tensorflow as tf

from darts_tf import collective
from darts_tf.space.batch_norms import BatchNorms
from darts_tf.space.dual import Dual, Number
from darts_tf.space.layout import Composite, Layout, split
from darts_tf.space.tracing import is_exporting, is_keeping, replicas, wants_gradient_of

_current: contextvars.ContextVar["Traces | None"] = contextvars.ContextVar("traces", default=None)


class Traces:
    """The traced functions of a model, by what determines them."""

    def __init__(self):
        self._functions: dict[tuple, Callable] = {}

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """While active, all blocks that are called use these traces."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def of(self, compute: Callable, *key) -> Callable:
        """The traced form of `compute(*key)`, made when it is first asked for."""
        if key not in self._functions:
            self._functions[key] = tf.function(
                compute(*key),
                autograph=False,
                # Kept whole at run time too: inlining them all makes the graph optimizer run for
                # minutes.
                experimental_attributes={"_noinline": True},
            )
        return self._functions[key]


def current(otherwise: Traces) -> contextlib.AbstractContextManager[None]:
    """While active, there are traces to share: those that are shared already, or else these."""
    return contextlib.nullcontext() if _current.get() else otherwise.shared()


def evaluate(
    function,
    layout: Layout,
    training: bool,
    vector: Number | None,
    statistics: tf.Tensor | None,
    read: tuple[Number, ...],
    *further: tf.Tensor,
) -> tuple[Number, tf.Tensor | None]:
    """The function of a block at given weights.

    Args:
        function: A `BlockFunction` or a `Composite`.
        layout: Of its weights and BatchNorms.
        training: Whether BatchNorm uses the batch's statistics.
        vector: Its weights; None if it has none.
        statistics: Its running statistics, (2, BatchNorms, channels): means, then variances. Not
            used in training.
        read: What it begins with: the tensors that it `reads` of a state.
        *further: Whatever else it takes.

    Returns:
        The output, and the statistics of the batch like `statistics`: None if not in training, of a
        `Dual`, and without BatchNorms.
    """
    if not (training and layout.norms):
        return _traced(function, layout, False)(None, vector, statistics, read, *further), None
    call = collective.next_call() if replicas() > 1 and collective.is_in_one_order() else None
    return _traced(function, layout, True)(call, vector, None, read, *further)


def _traced(function, layout: Layout, training: bool) -> Callable:
    """(call, vector, statistics, read, *further) -> output, in training with batch statistics."""
    constants = [what for what in ("weights", "alphas") if not wants_gradient_of(what)]
    alone = replicas() == 1 or not training
    # Not all converters of graphs can read nested functions. A composite is not kept whole:
    # TensorFlow looks into functions again wherever they are called, into those in them too.
    flat = is_exporting() or isinstance(function, Composite)
    if flat or not (alone or collective.is_in_one_order()):
        return _computation(function, layout, training, *constants)
    kept = ["kept"] if is_keeping() else []  # inside, another graph: not the same trace
    return _current.get().of(_computation, function, layout, training, *constants, *kept)


def _computation(function, layout: Layout, training: bool, *constants: str) -> Callable:
    compute = _of_parts if isinstance(function, Composite) else _of_weights

    def evaluated(call, vector, statistics, read, *further):
        if "weights" in constants and vector is not None:
            vector = tf.nest.map_structure(tf.stop_gradient, vector)
        if "alphas" in constants:
            further = tuple(map(tf.stop_gradient, further))
        with collective.within_call(call):
            y, batch = compute(function, layout, training, vector, statistics, read, *further)
        if not training:
            return y
        return y, None if isinstance(y, Dual) else batch()

    return evaluated


def _of_weights(function, layout, training, vector, statistics, read, *further):
    running = None
    if not training and statistics is not None:
        rows = zip(*map(tf.unstack, tf.unstack(statistics)), strict=True)
        running = dict(zip(layout.norms, rows, strict=True))
    weights = layout.unpack(vector, tf.nest.flatten(read)[0].dtype)
    norms = BatchNorms(weights, running)
    state = function.state(**dict(zip(function.reads(), read, strict=True)))
    y = function(weights, norms, state, *further)

    def batch():
        means, variances = zip(*(norms.batch[name] for name in layout.norms), strict=True)
        return tf.stack([tf.stack(means), tf.stack(variances)])

    return y, batch


def _of_parts(function, layout, training, vector, statistics, read, *further):
    parts = function.parts()
    layouts = {name: layout.within(name) for name in parts}
    vectors, running, batches = {}, {}, {}
    if vector is not None:
        sizes = {name: part.size for name, part in layouts.items() if part.size}
        vectors = dict(zip(sizes, split(vector, list(sizes.values())), strict=True))
    normed = {name: len(part.norms) for name, part in layouts.items() if part.norms}
    if statistics is not None:
        pieces = tf.split(statistics, list(normed.values()), axis=1)
        running = dict(zip(normed, pieces, strict=True))

    def apply(name, read, *further):
        y, batches[name] = evaluate(
            parts[name],
            layouts[name],
            training,
            vectors.get(name),
            running.get(name),
            read,
            *further,
        )
        return y

    y = function(apply, *read, *further)
    return y, lambda: tf.concat([batches[name] for name in normed], 1)
