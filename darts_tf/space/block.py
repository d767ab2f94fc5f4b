"""Block: the Keras layer around a pure function; it owns weights and running statistics."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from darts_tf import collective
from darts_tf.space import functional
from darts_tf.space.dual import Dual, Number, read
from darts_tf.space.normalisation import MOMENTUM
from darts_tf.space.primitives import Normalise, Primitive, Shapes, activation_function
from darts_tf.space.state import State
from darts_tf.space.tracing import is_exporting, is_keeping, replicas, wants_gradient_of


class BatchNorms:
    """The BatchNorms of one block during one call; in training it collects the batch statistics."""

    def __init__(
        self,
        weights: Mapping[str, Number],
        running: Mapping[str, tuple[tf.Tensor, tf.Tensor]] | None = None,
    ):
        """Makes them of the block's weights and running statistics.

        Args:
            weights: "<norm>/gamma" and "<norm>/beta" where the block has scales and shifts.
            running: Mean and variance by name; None to use the statistics of the batch (training).
        """
        self._weights = weights
        self._running = running
        self.batch: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}

    def __call__(self, name: str, x: Number, scale: tf.Tensor | None = None) -> Number:
        """Applies the BatchNorm of a name.

        Args:
            name: One of the block's BatchNorms.
            x: (batch, height, width, channels).
            scale: A scalar that the outcome is multiplied with, for BatchNorms without a scale of
                their own.
        """
        gamma, beta = self._weights.get(f"{name}/gamma"), self._weights.get(f"{name}/beta")
        if scale is not None:
            gamma = tf.fill([x.shape[-1]], scale)
        if self._running is not None:
            return functional.batch_norm_inference(x, *self._running[name], gamma, beta)
        y, *self.batch[name] = functional.batch_norm(x, gamma, beta)
        return y

    def within(self, prefix: str, scales: Mapping[str, tf.Tensor]) -> Normalise:
        """The BatchNorms whose names begin with a prefix, by the rest of their names.

        Args:
            prefix: The prefix, without the slash.
            scales: Scales by the rest of the name.
        """
        return lambda name, x: self(f"{prefix}/{name}", x, scales.get(name))


def within(weights: Mapping[str, Number], prefix: str) -> dict[str, Number]:
    """The weights whose names begin with a prefix, by the rest of their names."""
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}


class BlockFunction(Protocol):
    """A pure function with named weights; hashable, so that equal ones share one trace."""

    def kernels(self, channels_in: int, channels_out: int) -> Shapes:
        """Names and shapes of the weights."""

    def norms(self) -> tuple[str, ...]:
        """Names of the BatchNorms, each over `channels_out` channels."""

    def reads(self) -> tuple[str, ...]:
        """Names of the tensors of `State` that it begins with."""

    def state(self, **known: Number) -> State:
        """The state of an input, `whole`, or of tensors that are computed already."""

    def __call__(
        self,
        weights: Mapping[str, Number],
        norms: BatchNorms,
        state: State,
        *further: tf.Tensor,
    ) -> Number:
        """Computes the output."""


class OfWhole:
    """What functions of the input itself share, which no other block reads in part."""

    def reads(self) -> tuple[str, ...]:
        """The input."""
        return ("whole",)

    def state(self, **known: Number) -> State:
        """The input as a state."""
        return State(**known)


@dataclasses.dataclass(frozen=True)
class PrimitiveFunction:
    """One primitive at one stride, as the function of a block."""

    primitive: Primitive
    stride: int = 1
    search: bool = False
    activation: str = "relu"

    def kernels(self, channels_in: int, channels_out: int) -> Shapes:
        """Those of the primitive."""
        return self.primitive.kernels(channels_in, channels_out, self.stride)

    def norms(self) -> tuple[str, ...]:
        """Those of the primitive."""
        return self.primitive.norms(self.stride, self.search)

    def reads(self) -> tuple[str, ...]:
        """What the primitive reads."""
        return self.primitive.reads(self.stride)

    def state(self, **known: Number) -> State:
        """The state of an input at the stride."""
        return State(self.stride, activation_function(self.activation), **known)

    def __call__(self, weights, norms, state):
        """Applies the primitive."""
        return self.primitive.apply(state, weights, norms, self.stride, self.search)


def kernel_initializer() -> keras.Initializer:
    """Uniform in +-1 / sqrt(fan in), as the published networks start their convolutions.

    Keras counts fan in = channels * k * k for a depthwise kernel, as the framework of the published
    runs did (its later versions count k * k).
    """
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class View:
    """A named part of a variable, of consecutive elements."""

    variable: keras.Variable
    start: int
    shape: tuple[int, ...]

    def of(self, whole: np.ndarray | tf.Tensor) -> np.ndarray:
        """The same part of an array like the variable, such as its gradient."""
        flat = np.ravel(whole.numpy() if tf.is_tensor(whole) else whole)
        return flat[self.start : self.start + math.prod(self.shape)].reshape(self.shape)

    def numpy(self) -> np.ndarray:
        """The present value."""
        return self.of(self.variable.value)

    def assign(self, value: np.ndarray) -> None:
        """Sets the part, leaving the rest of the variable as it is."""
        whole = np.array(self.variable.value.numpy())
        whole.ravel()[self.start : self.start + math.prod(self.shape)] = np.ravel(value)
        self.variable.assign(whole)


class Block(keras.layers.Layer):
    """A pure function of its inputs, with its weights and running statistics as Keras variables.

    All weights of a block are one vector, and all its running statistics one array: a supernet has
    1,400 tensors of weights, and a variable for each makes the graph of a step (reads, gradients,
    updates) ten times larger and slower to build. `named_parameters` gives them by name and shape.

    Args:
        function: What it computes.
        channels_in: Channels of the first input.
        channels_out: Channels of the output and of every BatchNorm inside.
        affine: Whether the BatchNorms have a scale and a shift. Scales start uniform in (0, 1), as
            in the published runs.

    Call arguments:
        x: (batch, height, width, channels_in).
        *further: Whatever else the function takes.
        training: Whether BatchNorm uses the batch's statistics; the running ones are then updated.
    """

    def __init__(
        self,
        function: BlockFunction,
        channels_in: int,
        channels_out: int,
        affine: bool,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.function = function
        self.channels = channels_out
        initializers = {}
        self._layout = Layout(
            tuple(function.kernels(channels_in, channels_out).items()), function.norms()
        )
        for key, _ in self._layout.shapes:
            initializers[key] = kernel_initializer()
        if affine:
            extra = []
            for norm in self._layout.norms:
                # The framework of the published runs drew the scale from U(0, 1), not 1.
                initializers[f"{norm}/gamma"] = keras.initializers.RandomUniform(0, 1)
                initializers[f"{norm}/beta"] = keras.initializers.Zeros()
                extra += [(f"{norm}/gamma", (channels_out,)), (f"{norm}/beta", (channels_out,))]
            self._layout = dataclasses.replace(
                self._layout, shapes=self._layout.shapes + tuple(extra)
            )

        def initial(shape, dtype=None):
            pieces = [initializers[key](part, dtype) for key, part in self._layout.shapes]
            return tf.concat([tf.reshape(piece, [-1]) for piece in pieces], 0)

        self.vector = self.statistics = None
        if self._layout.shapes:
            self.vector = self.add_weight(
                name="weights", shape=(self._layout.size,), initializer=initial
            )
        if self._layout.norms:
            # Means, then variances: (2, BatchNorms, channels).
            self.statistics = self.add_weight(
                name="moving_statistics",
                shape=(2, len(self._layout.norms), channels_out),
                initializer=lambda shape, dtype=None: tf.stack(
                    [tf.zeros(shape[1:], dtype), tf.ones(shape[1:], dtype)]
                ),
                trainable=False,
                autocast=False,
            )
        self.built = True

    def named_parameters(self) -> dict[str, View]:
        """The trainable weights by name, such as "dw1/kernel" and "bn/gamma"."""
        views, start = {}, 0
        for key, shape in self._layout.shapes:
            views[key] = View(self.vector, start, shape)
            start += math.prod(shape)
        return views

    def named_statistics(self) -> dict[str, View]:
        """The running statistics by name, such as "bn/moving_mean"."""
        norms, size = self._layout.norms, self.channels
        return {
            f"{norm}/{kind}": View(self.statistics, (part * len(norms) + row) * size, (size,))
            for row, norm in enumerate(norms)
            for part, kind in enumerate(("moving_mean", "moving_variance"))
        }

    def call(self, x, *further, training=False):
        """Applies the function to an input."""
        return self.leave(self.function.state(whole=x), *further, training=training)

    def leave(self, state: State, *further: tf.Tensor, training: bool = False) -> Number:
        """Applies the function to a state that other blocks may share."""
        inputs = (state.read(self.function.reads()), *further)
        training = bool(training) and self.statistics is not None
        vector = read(self.vector)
        if vector is not None:  # cast here: when a cell is recomputed, Keras' own casting is over
            dtype = self.compute_dtype
            vector = tf.nest.map_structure(lambda part: tf.cast(part, dtype), vector)
        statistics = None if self.statistics is None else tf.convert_to_tensor(self.statistics)
        if not training:
            return _traced(self.function, self._layout, False)(None, vector, statistics, *inputs)
        apply = _traced(self.function, self._layout, True)
        shared = replicas() > 1 and collective.is_in_one_order()
        call = collective.next_call() if shared else None
        y, batch = apply(call, vector, None, *inputs)
        if isinstance(y, Dual):  # one of the search's virtual passes
            return y
        kept = MOMENTUM * statistics
        self.statistics.assign(kept + (1 - MOMENTUM) * tf.cast(batch, kept.dtype))
        return y


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the weights of a block lie in its vector, and its BatchNorms in order; hashable."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    norms: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def unpack(self, vector: Number | None) -> dict[str, Number]:
        """The weights by name."""
        if vector is None:
            return {}
        sizes = [math.prod(shape) for _, shape in self.shapes]
        split = [tf.split(part, sizes) for part in tf.nest.flatten(vector)]
        return {
            key: tf.nest.pack_sequence_as(vector, [tf.reshape(piece, shape) for piece in pieces])
            for (key, shape), *pieces in zip(self.shapes, *split, strict=True)
        }


def _traced(function: BlockFunction, layout: Layout, training: bool) -> Callable:
    """The function of a block over its vector and statistics.

    Blocks of equal geometry share one `tf.function`, traced once for each input shape: a network of
    hundreds of blocks is then a graph of calls to a few functions, several times faster to build
    than one flat graph.
    """
    alone = replicas() == 1 or not training
    if is_exporting() or not (alone or collective.is_in_one_order()):
        # Not all converters of graphs can read nested functions.
        return _plain(function, layout, training)
    constants = [what for what in ("weights", "alphas") if not wants_gradient_of(what)]
    kept = ["kept"] if is_keeping() else []  # inside, another graph: not the same trace
    return _shared(function, layout, training, *constants, *kept)


def _plain(function, layout, training, *constants):
    def evaluate(call, vector, statistics, read, *further):
        if "weights" in constants and vector is not None:
            vector = tf.nest.map_structure(tf.stop_gradient, vector)
        if "alphas" in constants:
            further = tuple(map(tf.stop_gradient, further))
        running = None
        if not training and statistics is not None:
            rows = zip(*map(tf.unstack, tf.unstack(statistics)), strict=True)
            running = dict(zip(layout.norms, rows, strict=True))
        weights = layout.unpack(vector)
        norms = BatchNorms(weights, running)
        state = function.state(**dict(zip(function.reads(), read, strict=True)))
        with collective.within_call(call):
            y = function(weights, norms, state, *further)
        if not training:
            return y
        if isinstance(y, Dual):
            return y, None
        means, variances = zip(*(norms.batch[name] for name in layout.norms), strict=True)
        return y, tf.stack([tf.stack(means), tf.stack(variances)])

    return evaluate


@functools.cache
def _shared(function, layout, training, *constants):
    return tf.function(
        _plain(function, layout, training, *constants),
        autograph=False,
        # Kept whole at run time too: inlining them all makes the graph optimizer run for minutes.
        experimental_attributes={"_noinline": True},
    )
