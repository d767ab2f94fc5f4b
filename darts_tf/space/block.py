"""Block: the Keras layer around a pure function; it owns weights and running statistics."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import keras
import tensorflow as tf

from darts_tf.space.batch_norms import BatchNorms
from darts_tf.space.dual import Number, linear
from darts_tf.space.dual import read as read_weights
from darts_tf.space.layout import View, layout_of
from darts_tf.space.normalisation import MOMENTUM
from darts_tf.space.primitives import Primitive, Shapes, activation_function
from darts_tf.space.state import State
from darts_tf.space.traces import Traces, current, evaluate
from darts_tf.space.tracing import compute_dtype


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
        # Kernels are cast where they are used, and scales and shifts not at all: not by Keras.
        super().__init__(name=name, autocast=False)
        self.function = function
        self.channels = channels_out
        layout = self._layout = layout_of(function, channels_in, channels_out, affine)
        self._traces = Traces()
        scales, shifts = ({f"{n}/{what}" for n in layout.norms} for what in ("gamma", "beta"))
        initializers = {}
        for key, _ in layout.shapes:
            if affine and key in scales:
                # The framework of the published runs drew the scale from U(0, 1), not 1.
                initializers[key] = keras.initializers.RandomUniform(0, 1)
            elif affine and key in shifts:
                initializers[key] = keras.initializers.Zeros()
            else:
                initializers[key] = kernel_initializer()

        def initial(shape, dtype=None):
            pieces = [initializers[key](part, dtype) for key, part in layout.shapes]
            return tf.concat([tf.reshape(piece, [-1]) for piece in pieces], 0)

        self.vector = self.statistics = None
        if layout.shapes:
            self.vector = self.add_weight(
                name="weights", shape=(layout.size,), initializer=initial, autocast=False
            )
        if layout.norms:
            # Means, then variances: (2, BatchNorms, channels).
            self.statistics = self.add_weight(
                name="moving_statistics",
                shape=(2, len(layout.norms), channels_out),
                initializer=lambda shape, dtype=None: tf.stack(
                    [tf.zeros(shape[1:], dtype), tf.ones(shape[1:], dtype)]
                ),
                trainable=False,
                autocast=False,
            )
        self.built = True

    def named_parameters(self) -> dict[str, View]:
        """The trainable weights by name, such as "dw1/kernel" and "bn/gamma"."""
        return self._layout.views(self.vector)

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
        state = self.function.state(whole=linear(tf.cast)(x, compute_dtype(self)))
        return self.apply_to(state.read(self.function.reads()), *further, training=training)

    def apply_to(
        self, read: tuple[Number, ...], *further: tf.Tensor, training: bool = False
    ) -> Number:
        """Applies the function to what it reads of a state, which other blocks may share."""
        vector = read_weights(self.vector)
        statistics = None if self.statistics is None else tf.convert_to_tensor(self.statistics)
        with current(otherwise=self._traces):
            y, batch = evaluate(
                self.function, self._layout, bool(training), vector, statistics, read, *further
            )
        if batch is not None:  # in one of the search's virtual passes there is none
            kept = MOMENTUM * statistics
            self.statistics.assign(kept + (1 - MOMENTUM) * tf.cast(batch, kept.dtype))
        return y
