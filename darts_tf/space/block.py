"""Block: the Keras layer around a pure function; it owns weights and running statistics."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from darts_tf.space import functional
from darts_tf.space.primitives import Normalise, Primitive, Shapes, activation_function


class BatchNorms:
    """The BatchNorms of one block during one call; in training it collects the batch statistics."""

    def __init__(
        self,
        weights: Mapping[str, tf.Tensor],
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

    def __call__(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Applies the BatchNorm of a name."""
        gamma, beta = self._weights.get(f"{name}/gamma"), self._weights.get(f"{name}/beta")
        if self._running is not None:
            return functional.batch_norm_inference(x, *self._running[name], gamma, beta)
        y, *self.batch[name] = functional.batch_norm(x, gamma, beta)
        return y

    def within(self, prefix: str) -> Normalise:
        """The BatchNorms whose names begin with a prefix, by the rest of their names."""
        return lambda name, x: self(f"{prefix}/{name}", x)


class BlockFunction(Protocol):
    """A pure function with named weights; hashable, so that equal ones share one trace."""

    def kernels(self, channels_in: int, channels_out: int) -> Shapes:
        """Names and shapes of the weights."""

    def norms(self) -> tuple[str, ...]:
        """Names of the BatchNorms, each over `channels_out` channels."""

    def __call__(
        self, weights: Mapping[str, tf.Tensor], norms: BatchNorms, *inputs: tf.Tensor
    ) -> tf.Tensor:
        """Computes the output."""


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

    def __call__(self, weights, norms, x):
        """Applies the primitive to x."""
        activation = activation_function(self.activation)
        return self.primitive.apply(x, weights, norms, self.stride, self.search, activation)


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
        1,400 tensors of weights, and a variable for each makes the graph of a step (reads,
        gradients, updates) ten times larger and slower to build. `named_parameters` gives them by
        name and shape.

    Args:
        function: What it computes.
        channels_in: Channels of the first input.
        channels_out: Channels of the output and of every BatchNorm inside.
        affine: Whether the BatchNorms have a scale and a shift. Scales start uniform in (0, 1), as
            in the
            published runs.

    Call arguments:
        inputs: (batch, height, width, channels_in) and whatever else the function takes.
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

    def call(self, *inputs, training=False):
        """Applies the function."""
        training = bool(training) and self.statistics is not None
        vector, statistics = (
            None if variable is None else tf.convert_to_tensor(variable)
            for variable in (self.vector, self.statistics)
        )
        if not training:
            return _traced(self.function, self._layout, False)(vector, statistics, *inputs)
        y, batch = _traced(self.function, self._layout, True)(vector, None, *inputs)
        kept = functional.MOMENTUM * statistics
        self.statistics.assign(kept + (1 - functional.MOMENTUM) * tf.cast(batch, kept.dtype))
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

    def unpack(self, vector: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """The weights by name."""
        if vector is None:
            return {}
        pieces = tf.split(vector, [math.prod(shape) for _, shape in self.shapes])
        return {
            key: tf.reshape(piece, shape)
            for (key, shape), piece in zip(self.shapes, pieces, strict=True)
        }


def _traced(function: BlockFunction, layout: Layout, training: bool) -> Callable:
    """The function of a block over its vector and statistics.

    Blocks of equal geometry share one `tf.function`, traced once for each input shape: a network of
    hundreds of blocks is then a graph of calls to a few functions, several times faster to build
    than one flat graph.
    """
    if functional.is_exporting() or functional.replicas() > 1:
        # A reduction over replicas cannot be called from a nested function, nor can all converters
        # of graphs read one.
        return _plain(function, layout, training)
    return _shared(function, layout, training)


def _plain(function, layout, training):
    def evaluate(vector, statistics, *inputs):
        running = None
        if not training and statistics is not None:
            rows = zip(*map(tf.unstack, tf.unstack(statistics)), strict=True)
            running = dict(zip(layout.norms, rows, strict=True))
        weights = layout.unpack(vector)
        norms = BatchNorms(weights, running)
        y = function(weights, norms, *inputs)
        if not training:
            return y
        means, variances = zip(*(norms.batch[name] for name in layout.norms), strict=True)
        return y, tf.stack([tf.stack(means), tf.stack(variances)])

    return evaluate


@functools.cache
def _shared(function, layout, training):
    return tf.function(
        _plain(function, layout, training),
        autograph=False,
        # Kept whole at run time too: inlining them all makes the graph optimizer run for minutes.
        experimental_attributes={"_noinline": True},
    )
