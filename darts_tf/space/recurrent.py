"""The recurrent cells: the search cell and the derived cell (paper, sections 2.1 and 3.1.2).

Symbols: `darts_tf.space.recurrent_functions`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from darts_tf import collective
from darts_tf.errors import InputError, unknown_name, whole_number
from darts_tf.genotype import RNN_PRIMITIVES, RecurrentGenotype, edge_offset
from darts_tf.space.fused import fused
from darts_tf.space.masked_product import masked_product
from darts_tf.space.recurrent_functions import (
    ACTIVATIONS,
    INITIAL_RANGE,
    MOMENTUM,
    batch_norm,
    global_moments,
    highway,
    mixed_operation,
    normalise,
    over_time,
)
from darts_tf.space.tracing import compute_dtype, replicas


class Unrolled(NamedTuple):
    """What a cell computes over a sequence.

    Attributes:
        outputs: The hidden states, (time, batch, width).
        last: The last of them, (batch, width).
        states: s_0 .. s_N of every step, (time, N + 1, batch, width), where they were asked for.
    """

    outputs: tf.Tensor
    last: tf.Tensor
    states: tf.Tensor | None = None


def _uniform():
    return keras.initializers.RandomUniform(-INITIAL_RANGE, INITIAL_RANGE)


class _Kernels(NamedTuple):
    """The elementwise functions of the search cell, each compiled as one."""

    edge: Callable
    highway: Callable
    batch_norm: Callable
    normalise: Callable  # with several replicas


@functools.cache
def _kernels(primitives: tuple[str, ...], jit_compile: bool) -> _Kernels:
    """Those of all cells with the same candidates: a process keeps what it has compiled."""

    def edge(pre, weights, edge, state):
        # All weights and a number: a loop carries each tensor by itself, in each of its gradients.
        return mixed_operation(pre, state, tf.gather(weights, edge), primitives)

    return _Kernels(
        fused(edge, separate=(1,), jit_compile=jit_compile),
        *(fused(f, jit_compile=jit_compile) for f in (highway, batch_norm, normalise)),
    )


@keras.saving.register_keras_serializable(package="darts_tf")
class RecurrentSearchCell(keras.layers.Layer):
    """The cell of the recurrent search: every node mixes all primitives of all earlier nodes.

        [c; h] = [x o m_x, h o m_h] W0          s_0 = BN(h + sigma(c) o (tanh(h) - h))
        [c; h]_j = (s_j o m_h) W_i              s_i = BN(sum of the mixed operations of j < i)
        next hidden state = mean(s_1 .. s_N)

    One W_i for each node, shared by its predecessors and primitives. One BatchNorm without scale
    and shift, shared by all nodes and time steps: N + 1 updates of its running statistics in each
    time step, by the statistics of the batch; under a strategy the batch is the global one. The
    highways go past the dropout masks.

    Args:
        width: Width of input and hidden state (300 as published).
        num_nodes: Nodes N beside node 0 (8 as published).
        primitives: Candidates on every edge, in the order of alpha's columns.
        jit_compile: Whether XLA compiles what is between the matrix products (on a CPU it is two
            to three times faster so).

    Raises:
        InputError: A number is not positive, or a primitive not known.

    Reference:
        Liu, Simonyan, Yang: DARTS (ICLR 2019), section 3.1.2 and appendix A.1.2.
    """

    def __init__(
        self,
        width: int = 300,
        num_nodes: int = 8,
        primitives: Sequence[str] = RNN_PRIMITIVES,
        jit_compile: bool = True,
        name: str = "cell",
        **options,
    ):
        super().__init__(name=name, autocast=False, **options)
        width, num_nodes = whole_number("width", width), whole_number("num_nodes", num_nodes)
        self.primitives = tuple(primitives)
        for primitive in self.primitives:
            if primitive not in RNN_PRIMITIVES:
                raise unknown_name("recurrent primitive", primitive, RNN_PRIMITIVES)
        self.width, self.num_nodes, self.jit_compile = width, num_nodes, jit_compile
        self.W0 = self.add_weight(
            name="W0", shape=(2 * width, 2 * width), initializer=_uniform(), autocast=False
        )
        self.W = [
            self.add_weight(
                name=f"W{node}", shape=(width, 2 * width), initializer=_uniform(), autocast=False
            )
            for node in range(1, num_nodes + 1)
        ]
        self.moving_mean, self.moving_variance = (
            self.add_weight(
                name=kind, shape=(width,), initializer=start, trainable=False, autocast=False
            )
            for kind, start in (("moving_mean", "zeros"), ("moving_variance", "ones"))
        )
        self.built = True

    def call(
        self,
        inputs: tf.Tensor,
        hidden: tf.Tensor,
        weights: tf.Tensor,
        input_mask: tf.Tensor | None = None,
        hidden_mask: tf.Tensor | None = None,
        training: bool = False,
        keep_states: bool = False,
    ) -> Unrolled:
        """Runs the cell over a sequence and, in training, updates the running statistics.

        Args:
            inputs: (time, batch, width).
            hidden: (batch, width), the hidden state before the first step.
            weights: p = softmax of the alphas, (edges, primitives).
            input_mask: m_x, (batch, width) of 0 and 1 / keep; None for ones.
            hidden_mask: m_h, likewise.
            training: Whether BatchNorm takes the moments of the batch, not the running ones.
            keep_states: Whether the states of all nodes are returned: N + 1 times the outputs.
        """
        kernels = _kernels(self.primitives, self.jit_compile)
        n, nodes, dtype = self.width, self.num_nodes, compute_dtype(self)
        inputs, hidden = tf.cast(inputs, dtype), tf.cast(hidden, dtype)
        hidden_mask = tf.ones_like(hidden) if hidden_mask is None else tf.cast(hidden_mask, dtype)
        masked = inputs if input_mask is None else inputs * tf.cast(input_mask, dtype)
        W0 = tf.convert_to_tensor(self.W0)
        W = [tf.convert_to_tensor(w) for w in self.W]
        # The input's half of node 0, for all time steps in one product.
        xW = tf.matmul(tf.reshape(masked, [-1, n]), tf.cast(W0[:n], dtype))
        xW = tf.reshape(xW, [-1, tf.shape(hidden)[0], 2 * n])
        xW = tf.ensure_shape(xW, [None, hidden.shape[0], 2 * n])
        running = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
        if training:
            count = tf.cast(tf.shape(hidden)[0], self.variable_dtype)
            count = count if replicas() == 1 else collective.sum_over_replicas(count)

        def normalised(x):
            if not training:
                return normalise(x, *running), *running
            if replicas() == 1:
                return kernels.batch_norm(x)
            moments = global_moments(x, count)
            return kernels.normalise(x, *moments), *moments

        def step(xW, h):
            # Cast in here, so that gradients of W are summed over time in the type of W.
            pre = xW + tf.matmul(h * hidden_mask, tf.cast(W0[n:], dtype))
            states, means, variances = ([first] for first in normalised(kernels.highway(pre, h)))
            for i in range(nodes):
                pre = tf.unstack(masked_product(tf.cast(W[i], dtype), hidden_mask, *states))
                edges = [
                    kernels.edge(pre, weights, tf.constant(edge), state)
                    for edge, (pre, state) in enumerate(
                        zip(pre, states, strict=True), edge_offset(i, 1)
                    )
                ]
                node = normalised(tf.add_n(edges))
                for collected, new in zip((states, means, variances), node, strict=True):
                    collected.append(new)
            output = tf.add_n(states[1:]) / nodes
            kept = [tf.stack(states)] if keep_states else []
            return output, tf.stack(means), tf.stack(variances), *kept

        calls, moments = nodes + 1, self.variable_dtype
        with collective.within_loop():
            kept = [((calls, *hidden.shape), dtype)] if keep_states else []
            outputs, last, (means, variances, *states) = over_time(
                step, xW, hidden, [((calls, n), moments), ((calls, n), moments), *kept]
            )
        if training:
            # The published networks keep the unbiased variance.
            self._update(self.moving_mean, means)
            self._update(self.moving_variance, variances * (count / (count - 1)))
        return Unrolled(outputs, last, *states)

    def _update(self, statistic: keras.Variable, batches: tf.Tensor) -> None:
        """r <- 0.9 r + 0.1 b for every b of (time, calls, width) in turn, as one weighted sum."""
        batches = tf.stop_gradient(tf.reshape(batches, [-1, self.width]))
        # The last b has weight 0.1, the one before 0.09, ...; r itself 0.9 ** number of them.
        age = tf.cast(tf.range(tf.shape(batches)[0])[::-1], batches.dtype)
        momentum = tf.constant(MOMENTUM, batches.dtype)
        shares = (1 - momentum) * momentum**age
        kept = momentum ** tf.cast(tf.shape(batches)[0], batches.dtype)
        statistic.assign(kept * statistic + tf.linalg.matvec(batches, shares, transpose_a=True))

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "width": self.width,
            "num_nodes": self.num_nodes,
            "primitives": list(self.primitives),
            "jit_compile": self.jit_compile,
        }


@keras.saving.register_keras_serializable(package="darts_tf")
class RecurrentDerivedCell(keras.layers.Layer):
    """The cell of a recurrent genotype; a cell for `keras.layers.RNN`.

        [c; h] = [x o m_x, h o m_h] W0          s_0 = h + sigma(c) o (tanh(h) - h)
        [c; h] = (s_j o m_h) W_i                s_i = s_j + sigma(c) o (f(h) - s_j)
        next hidden state = mean of the concat list

    for node i with activation f and predecessor j. There is no BatchNorm, no bias and no output
    gate; the highways go past the dropout masks.

    Args:
        genotype: The cell; any number of nodes.
        width: Width of the hidden state; inputs may have another.

    Use:
        outputs = keras.layers.RNN(RecurrentDerivedCell(genotype, 128), return_sequences=True)(x)

    As every cell of `keras.layers.RNN` it honours masks, returns its state and is stateful where
    the layer is told so. `unroll` runs it faster and with dropout masks.

    Raises:
        InputError: The width is not positive, or the genotype not a recurrent one.

    Reference:
        Liu, Simonyan, Yang: DARTS (ICLR 2019), section 3.1.2 and figure 6.
    """

    def __init__(
        self, genotype: RecurrentGenotype, width: int = 850, name: str = "cell", **options
    ):
        super().__init__(name=name, **options)
        width = whole_number("width", width)
        if not isinstance(genotype, RecurrentGenotype):
            raise InputError(
                f"genotype must be a RecurrentGenotype. Received: {type(genotype).__name__}."
            )
        self.genotype, self.width = genotype, width
        self.state_size = self.output_size = width
        self._children: dict[int, list[int]] = {}
        for node, (_, predecessor) in enumerate(genotype.recurrent, 1):
            self._children.setdefault(predecessor, []).append(node)

    def build(self, input_shape):
        """Makes the weights for inputs (batch, input width)."""
        if self.built:
            return
        n = self.width
        self.W0 = self.add_weight(
            name="W0", shape=(input_shape[-1] + n, 2 * n), initializer=_uniform(), autocast=False
        )
        self.W = [
            self.add_weight(
                name=f"W{node}", shape=(n, 2 * n), initializer=_uniform(), autocast=False
            )
            for node in range(1, len(self.genotype.recurrent) + 1)
        ]
        self.built = True

    def get_initial_state(self, batch_size=None):
        """Zeros, (batch, width)."""
        return [tf.zeros([batch_size, self.width], self.compute_dtype)]

    def call(self, inputs, states, training=False):
        """One time step: (batch, input width) and [(batch, width)] to the same of the next."""
        state = states[0] if isinstance(states, (list, tuple)) else states
        W0, products = self._weights()
        inputs, state = (tf.cast(t, compute_dtype(self)) for t in (inputs, state))
        xW = tf.matmul(inputs, tf.cast(W0[: -self.width], inputs.dtype))
        state = self._step(xW, state, W0, products, None)
        return state, [state] if isinstance(states, (list, tuple)) else state

    def unroll(
        self,
        inputs: tf.Tensor,
        hidden: tf.Tensor,
        input_mask: tf.Tensor | None = None,
        hidden_mask: tf.Tensor | None = None,
        lengths: tf.Tensor | None = None,
    ) -> Unrolled:
        """Runs the cell over a sequence.

        Args:
            inputs: (time, batch, input width).
            hidden: (batch, width), the hidden state before the first step.
            input_mask: m_x, (batch, input width) of 0 and 1 / keep; None for ones.
            hidden_mask: m_h, (batch, width), likewise.
            lengths: (batch,), the number of steps of each sequence, after which its hidden state
                stays as it is; None for the whole time.
        """
        W0, products = self._weights()
        dtype = compute_dtype(self)
        inputs, hidden = tf.cast(inputs, dtype), tf.cast(hidden, dtype)
        hidden_mask = None if hidden_mask is None else tf.cast(hidden_mask, dtype)
        masked = inputs if input_mask is None else inputs * tf.cast(input_mask, dtype)
        # The input's part of node 0, for all time steps in one product.
        W0_of_inputs = tf.cast(W0[: -self.width], dtype)
        xW = tf.matmul(tf.reshape(masked, [-1, inputs.shape[-1]]), W0_of_inputs)
        xW = tf.reshape(xW, [-1, tf.shape(hidden)[0], 2 * self.width])
        xW = tf.ensure_shape(xW, [inputs.shape[0], hidden.shape[0], 2 * self.width])
        if lengths is None:
            outputs, last, _ = over_time(
                lambda xW, h: (self._step(xW, h, W0, products, hidden_mask),), xW, hidden
            )
            return Unrolled(outputs, last)
        goes_on = tf.sequence_mask(lengths, tf.shape(xW)[0], xW.dtype)  # (batch, time)
        goes_on = tf.transpose(goes_on)[:, :, None]

        def step(given, h):
            new = self._step(given[:, :-1], h, W0, products, hidden_mask)
            return (tf.where(given[:, -1:] > 0, new, h),)

        outputs, last, _ = over_time(step, tf.concat([xW, goes_on], -1), hidden)
        return Unrolled(outputs, last)

    def _weights(self):
        """W0, and for each node that others read the W_i of those, side by side."""
        W = [tf.convert_to_tensor(w) for w in self.W]
        products = {
            predecessor: tf.concat([W[node - 1] for node in nodes], 1)
            for predecessor, nodes in self._children.items()
        }
        return tf.convert_to_tensor(self.W0), products

    def _step(self, xW, h, W0, products, mask):
        """The next hidden state; xW is the input's part of node 0, (batch, 2 width)."""

        def masked(state):
            return state if mask is None else state * mask

        # Cast in here, so that gradients of W are summed over time in the type of W.
        states = {0: highway(xW + tf.matmul(masked(h), tf.cast(W0[-self.width :], h.dtype)), h)}
        pre = {}
        for node, (activation, predecessor) in enumerate(self.genotype.recurrent, 1):
            state = states[predecessor]
            if predecessor not in pre:
                # All nodes that read this one: (batch, n) x (n, children 2 n).
                pre[predecessor] = iter(
                    tf.split(
                        tf.matmul(masked(state), tf.cast(products[predecessor], h.dtype)),
                        len(self._children[predecessor]),
                        axis=1,
                    )
                )
            states[node] = highway(next(pre[predecessor]), state, ACTIVATIONS[activation])
        concat = self.genotype.concat
        return tf.add_n([states[node] for node in concat]) / len(concat)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "genotype": self.genotype.to_json(),
            "width": self.width,
        }

    @classmethod
    def from_config(cls, config):
        """The cell of `get_config`."""
        genotype = RecurrentGenotype.from_json(config["genotype"])
        return cls(**{**config, "genotype": genotype})
