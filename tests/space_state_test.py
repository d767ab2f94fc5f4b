"""State: what candidates share is computed once; gradients that nobody wants are not computed."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.genotype import CNN_PRIMITIVES
from darts_tf.space import functional
from darts_tf.space.cells import SearchCell
from darts_tf.space.state import State
from darts_tf.space.tracing import gradients_of

NAMES = ("activated", "phases", "even_pixels", "odd_pixels", "max_pooled", "average_pooled")


@pytest.fixture
def calls(monkeypatch):
    """How often each function below a state has run."""
    counts = collections.Counter()

    def counted(name, function):
        def call(*arguments):
            counts[name] += 1
            return function(*arguments)

        return call

    for name in ("phases", "max_pool", "average_pool"):
        monkeypatch.setattr(functional, name, counted(name, getattr(functional, name)))

    def activation(x):
        counts["activation"] += 1
        return tf.nn.relu(x)

    return counts, activation


@pytest.mark.parametrize("stride", [1, 2])
def test_every_tensor_is_computed_once_and_only_when_it_is_read(stride, calls):
    counts, activation = calls
    state = State(stride, activation, whole=tf.random.stateless_normal([2, 4, 6, 3], [1, 2]))
    assert not counts
    first = state.read(NAMES)
    again = state.read(reversed(NAMES))[::-1]
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert counts == {"activation": 1, "phases": 1, "max_pool": 1, "average_pool": 1}


def test_a_state_holds_what_its_names_say():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    state = State(2, tf.nn.relu, whole=tf.constant(x))
    positive = np.maximum(x, 0)
    even, odd, activated = state.read(["even_pixels", "odd_pixels", "activated"])
    np.testing.assert_array_equal(activated, positive)
    np.testing.assert_array_equal(even, positive[:, ::2, ::2])
    np.testing.assert_array_equal(odd, positive[:, 1::2, 1::2])
    wide = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    maxima = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (1, 2)).max((-2, -1))
    np.testing.assert_array_equal(state.max_pooled, maxima[:, ::2, ::2])


@pytest.mark.parametrize("size", [(5, 6), (6, 5), (5, 5)])
def test_phases_at_odd_sizes_and_stride_1_are_the_activated_state_itself(size):
    state = State(1, tf.nn.relu, whole=tf.ones([1, *size, 2]))
    assert state.phases is state.activated
    assert State(2, tf.nn.relu, whole=tf.ones([1, *size, 2])).even_pixels.shape[1:] == (3, 3, 2)


def test_what_is_known_is_not_computed(calls):
    counts, activation = calls
    known = tf.ones([1, 2, 2, 1])
    state = State(1, activation, activated=known, max_pooled=known)
    assert all(t is known for t in state.read(["activated", "max_pooled"]))
    assert not counts


# ---------------------------------------------------------------------------- graphs of whole cells


@pytest.fixture(scope="module")
def cell():
    keras.utils.set_random_seed(0)
    return SearchCell(
        2, 2, 2, False, False, num_nodes=3, primitives=CNN_PRIMITIVES, activation="relu"
    )


INPUTS = tf.random.stateless_normal([2, 2, 4, 4, 2], [3, 4])


def graph_def(function):
    graph = tf.function(function, autograph=False).get_concrete_function(tf.ones([9, 8]) / 8)
    return graph.graph.as_graph_def()


def operations(nodes):
    return collections.Counter(node.op for node in nodes)


def test_a_cell_pools_and_activates_once_per_node_not_per_edge(cell):
    definition = graph_def(lambda softmax: cell(*tf.unstack(INPUTS), softmax, training=True))
    counts = operations(definition.node)
    # Nine edges leave four nodes: both inputs and all intermediate nodes but the last. The
    # preprocessing of the two inputs activates as well.
    assert (counts["MaxPool"], counts["AvgPool"], counts["Relu"]) == (4, 4, 6)
    inside = [operations(function.node_def) for function in definition.library.function]
    assert inside and not any(c["MaxPool"] or c["AvgPool"] for c in inside)
    # Of an edge's own, only the second activations of the two separable convolutions.
    assert max(c["Relu"] for c in inside) == 2


@pytest.mark.parametrize("wanted", ["alphas", "weights"])
def test_an_alpha_gradient_computes_no_gradient_of_depthwise_kernels(wanted, cell):
    def gradient(softmax):
        with gradients_of(wanted), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([softmax, *(b.vector.value for b in cell.blocks())])
            y = tf.reduce_sum(cell(*tf.unstack(INPUTS), softmax, training=True) ** 2)
        return tape.gradient(y, softmax, unconnected_gradients="zero")

    definition = graph_def(gradient)
    counts = operations(definition.node)
    for function in definition.library.function:
        counts += operations(function.node_def)
    assert counts["DepthwiseConv2dNativeBackpropInput"]
    # Where the weights' gradients are wanted they are there: the search above would find them.
    assert bool(counts["DepthwiseConv2dNativeBackpropFilter"]) == (wanted == "weights")
