"""Mixed operations, cells, and the blocks under them, against sums written out."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.genotype import CNN_PRIMITIVES
from darts_tf.space.block import Block, BlockFunction, OfWhole, PrimitiveFunction
from darts_tf.space.cells import DerivedCell, SearchCell, stride_of_edge
from darts_tf.space.layout import View
from darts_tf.space.mixed import MixedFunction
from darts_tf.space.primitives import PRIMITIVES, Primitive, primitive
from darts_tf.space.traces import Traces
from darts_tf.space.tracing import gradients_of

CHANNELS = 4


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def softmax(alpha):
    exponent = np.exp(alpha - alpha.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def shake(layer, seed=5):
    """Gives every weight and statistic of a layer another value; variances stay positive."""
    for index, variable in enumerate(layer.variables):
        value = random(*variable.shape, seed=seed + index)
        variable.assign(np.abs(value) + 0.5 if "statistics" in variable.name else value)


# ------------------------------------------------------------------------------ mixed operation


class Mixed:
    """A mixed operation of all published candidates, and each candidate as a block of its own."""

    def __init__(self, stride):
        self.operation = Block(
            MixedFunction(CNN_PRIMITIVES, stride), CHANNELS, CHANNELS, affine=False
        )
        shake(self.operation)
        whole, statistics = (
            self.operation.named_parameters(),
            self.operation.named_statistics(),
        )
        self.candidates = []
        for name in CNN_PRIMITIVES:
            function = PrimitiveFunction(primitive(name), stride, search=True)
            block = Block(function, CHANNELS, CHANNELS, affine=False)
            for key, view in block.named_parameters().items():
                view.assign(whole.pop(f"{name}/{key}").numpy())
            for key, view in block.named_statistics().items():
                view.assign(statistics.pop(f"{name}/{key}").numpy())
            self.candidates.append(block)
        assert not whole and not statistics  # every weight has found its candidate


@pytest.fixture(scope="module", params=[1, 2], ids=["stride 1", "stride 2"])
def mixed(request):
    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        return Mixed(request.param)  # its layers keep their precision
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])


@pytest.mark.parametrize("training", [True, False])
def test_mixed_operation_is_the_weighted_sum_of_its_candidates(mixed, training):
    x, weights = random(3, 6, 5, CHANNELS), softmax(random(len(CNN_PRIMITIVES), seed=1))
    outputs = [block(tf.constant(x), training=training).numpy() for block in mixed.candidates]
    expected = sum(weight * output for weight, output in zip(weights, outputs, strict=True))
    actual = mixed.operation(tf.constant(x), tf.constant(weights), training=training)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    if not training:
        return
    statistics = mixed.operation.named_statistics()
    for name, block in zip(CNN_PRIMITIVES, mixed.candidates, strict=True):
        for key, view in block.named_statistics().items():
            np.testing.assert_allclose(
                statistics[f"{name}/{key}"].numpy(), view.numpy(), rtol=0, atol=1e-12, err_msg=name
            )


def test_alpha_gradient_of_a_mixed_operation_is_the_jacobian_of_the_softmax(mixed):
    x, alpha = tf.constant(random(3, 6, 5, CHANNELS)), random(len(CNN_PRIMITIVES), seed=1)
    outputs = [block(x, training=True).numpy() for block in mixed.candidates]
    cotangent = random(*outputs[0].shape, seed=2)
    s = softmax(alpha)
    inner = np.array([np.sum(output * cotangent) for output in outputs])
    expected = (np.diag(s) - np.outer(s, s)) @ inner

    variable = tf.constant(alpha)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        y = mixed.operation(x, tf.nn.softmax(variable), training=True)
        total = tf.reduce_sum(y * cotangent)
    np.testing.assert_allclose(tape.gradient(total, variable), expected, rtol=1e-9, atol=1e-10)
    assert abs(expected.sum()) < 1e-9 * np.abs(expected).max()  # a softmax does not see a shift


class GatedPool(Primitive):
    """Something that is not linear follows its last BatchNorm."""

    def norms(self, stride, search):
        return ("bn",)

    def apply(self, state, kernels, normalise, stride, search):
        return tf.sigmoid(normalise("bn", state.whole))


def test_a_candidate_that_does_not_end_with_batch_norm_is_weighted_as_a_whole(
    precision, monkeypatch
):
    """Folded into the scale, the weight would stand inside of the sigmoid: f(p x), not p f(x)."""
    monkeypatch.setitem(PRIMITIVES, "gated", GatedPool())
    block = Block(MixedFunction(("skip_connect", "gated"), 1), 2, 2, affine=False)
    x, p = random(3, 4, 4, 2), np.array([0.3, 0.7])
    normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    expected = p[0] * x + p[1] / (1 + np.exp(-normalised))
    actual = block(tf.constant(x), tf.constant(p), training=True)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------- cells


def test_only_edges_from_the_inputs_of_a_reduction_cell_have_stride_2():
    strides = {
        (source, reduction): stride_of_edge(source, reduction)
        for source in range(4)
        for reduction in (False, True)
    }
    assert {key for key, stride in strides.items() if stride == 2} == {(0, True), (1, True)}
    assert set(strides.values()) == {1, 2}


def make_search_cell(num_nodes=3, reduction=False, reduction_before=False):
    return SearchCell(
        3,
        5,
        2,
        reduction,
        reduction_before,
        num_nodes=num_nodes,
        primitives=("none", "skip_connect"),
        activation="relu",
        name="cell",
    )


def test_edges_are_ordered_by_target_then_source(precision):
    cell = make_search_cell(num_nodes=4)
    shake(cell)
    before_last, last = tf.constant(random(2, 4, 4, 3)), tf.constant(random(2, 4, 4, 5, seed=1))
    weights = random(14, 2, seed=2)  # any numbers: the cell does not ask for a softmax
    states = [
        block(x, training=True).numpy()
        for block, x in zip(cell.preprocess, (before_last, last), strict=True)
    ]
    for n in range(4):
        edges = [(n * (n + 3) // 2 + j, j) for j in range(n + 2)]
        states.append(sum(weights[edge, 1] * states[j] for edge, j in edges))
    expected = np.concatenate(states[2:], -1)
    actual = cell(before_last, last, tf.constant(weights), training=True)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_names_of_a_search_cell_tell_edge_node_and_source():
    cell = SearchCell(
        3, 5, 2, False, False, num_nodes=3, primitives=("avg_pool_3x3",), activation="relu"
    )
    names = dict.fromkeys(key.split("/")[0] for key in cell.named_statistics())
    assert list(names) == ["pre0", "pre1"] + [
        f"edge{n * (n + 3) // 2 + j:02d}_n{n}_p{j}" for n in range(3) for j in range(n + 2)
    ]


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_reduction_cell_halves_and_reads_a_larger_first_input_behind_another(size):
    height, width = size
    halved = -(-height // 2), -(-width // 2)
    cell = make_search_cell(reduction=True)
    weights = tf.fill([9, 2], 0.5)
    y = cell(tf.ones([1, *size, 3]), tf.ones([1, *size, 5]), weights, training=True)
    assert y.shape == (1, *halved, 3 * 2)
    behind = make_search_cell(reduction_before=True)
    y = behind(tf.ones([1, *size, 3]), tf.ones([1, *halved, 5]), weights, training=True)
    assert y.shape == (1, *halved, 3 * 2)


def make_derived_cell(reduction=False):
    """Nodes of one, three and two inputs, of which the last and the first make the output."""
    return DerivedCell(
        3,
        5,
        2,
        reduction,
        False,
        nodes=[
            [("skip_connect", 0)],
            [("skip_connect", 1), ("max_pool_3x3", 2), ("skip_connect", 0)],
            [("skip_connect", 3), ("skip_connect", 2)],
        ],
        concat=[4, 2],
        name="cell",
    )


def test_a_derived_cell_sums_what_comes_in_and_joins_the_listed_nodes(precision):
    cell = make_derived_cell()
    shake(cell)
    before_last, last = tf.constant(random(2, 4, 4, 3)), tf.constant(random(2, 4, 4, 5, seed=1))
    first, second = (
        block(x, training=False).numpy()
        for block, x in zip(cell.preprocess, (before_last, last), strict=True)
    )
    node2 = first
    pooled = tf.nn.max_pool2d(tf.constant(node2), 3, 1, "SAME").numpy()
    node3 = second + pooled + first
    expected = np.concatenate([node3 + node2, node2], -1)
    actual = cell(before_last, last, training=False)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_a_derived_reduction_cell_has_the_shape_of_its_listed_nodes():
    y = make_derived_cell(reduction=True)(tf.ones([2, 6, 5, 3]), tf.ones([2, 6, 5, 5]))
    assert y.shape == (2, 3, 3, 2 * 2)


def test_drop_path_spares_the_identity_and_multiplies_the_others(precision):
    cell = make_derived_cell()
    assert cell.droppable == [False, False, True, False, False, False]
    assert make_derived_cell(reduction=True).droppable == [True, True, True, True, False, False]
    before_last, last = tf.constant(random(2, 4, 4, 3)), tf.constant(random(2, 4, 4, 5, seed=1))
    keep = np.array([0.0, 2.5])
    first, second = (
        block(x).numpy() for block, x in zip(cell.preprocess, (before_last, last), strict=True)
    )
    pooled = tf.nn.max_pool2d(tf.constant(first), 3, 1, "SAME").numpy()
    node3 = second + keep[:, None, None, None] * pooled + first
    expected = np.concatenate([node3 + first, first], -1)
    actual = cell(before_last, last, [tf.constant(keep)])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------- blocks


def test_a_view_sets_its_part_and_leaves_the_rest():
    block = Block(PrimitiveFunction(primitive("sep_conv_3x3")), 2, 3, affine=True)
    views = block.named_parameters()
    assert sum(int(np.prod(view.shape)) for view in views.values()) == block.vector.shape[0]
    for seed, view in enumerate(views.values()):
        view.assign(random(*view.shape, seed=seed).astype(np.float32))
    for seed, (key, view) in enumerate(views.items()):  # none has overwritten another
        expected = random(*view.shape, seed=seed).astype(np.float32)
        np.testing.assert_array_equal(view.numpy(), expected, err_msg=key)
        np.testing.assert_array_equal(view.of(block.vector.numpy() * 2), 2 * expected)


def test_a_view_takes_consecutive_elements():
    variable = keras.Variable(np.arange(12.0).reshape(3, 4))
    view = View(variable, 5, (2, 2))
    np.testing.assert_array_equal(view.numpy(), [[5, 6], [7, 8]])
    view.assign([[-1, -2], [-3, -4]])
    np.testing.assert_array_equal(variable, [[0, 1, 2, 3], [4, -1, -2, -3], [-4, 9, 10, 11]])
    np.testing.assert_array_equal(view.of(tf.range(12)), [[5, 6], [7, 8]])


def test_running_statistics_keep_nine_tenths_of_the_old(precision):
    block = Block(PrimitiveFunction(primitive("max_pool_3x3"), 2, search=True), 2, 2, affine=False)
    means, variances = np.array([1.0, -2.0]), np.array([3.0, 0.5])
    views = block.named_statistics()
    np.testing.assert_array_equal(views["bn/moving_mean"].numpy(), [0, 0])
    np.testing.assert_array_equal(views["bn/moving_variance"].numpy(), [1, 1])
    views["bn/moving_mean"].assign(means)
    views["bn/moving_variance"].assign(variances)
    x = random(2, 4, 4, 2)
    pooled = tf.nn.max_pool2d(
        tf.pad(tf.constant(x), [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-1e9),
        3,
        2,
        "VALID",
    ).numpy()
    block(tf.constant(x), training=True)
    np.testing.assert_allclose(
        views["bn/moving_mean"].numpy(), 0.9 * means + 0.1 * pooled.mean((0, 1, 2)), atol=1e-12
    )
    np.testing.assert_allclose(
        views["bn/moving_variance"].numpy(),
        0.9 * variances + 0.1 * pooled.var((0, 1, 2), ddof=1),
        atol=1e-12,
    )
    before = block.statistics.numpy()
    block(tf.constant(x), training=False)
    np.testing.assert_array_equal(block.statistics, before)


def test_weights_start_in_the_published_ranges():
    keras.utils.set_random_seed(3)
    block = Block(PrimitiveFunction(primitive("sep_conv_5x5")), 32, 32, affine=True)
    bounds = {
        "dw1/kernel": (-((32 * 25) ** -0.5), (32 * 25) ** -0.5),  # channels counted in, as then
        "pw1/kernel": (-(32**-0.5), 32**-0.5),
        "dw2/kernel": (-((32 * 25) ** -0.5), (32 * 25) ** -0.5),
        "pw2/kernel": (-(32**-0.5), 32**-0.5),
        "bn1/gamma": (0, 1),
        "bn2/gamma": (0, 1),
    }
    for key, view in block.named_parameters().items():
        value = view.numpy()
        if key.endswith("beta"):
            np.testing.assert_array_equal(value, 0)
            continue
        low, high = bounds[key]
        assert low <= value.min() < low + 0.15 * (high - low), key
        assert high - 0.15 * (high - low) < value.max() <= high, key


TRACES = []


@dataclasses.dataclass(frozen=True)
class CountedFunction(OfWhole):
    """Multiplies by a weight, and counts how often Python runs it."""

    tag: str

    def kernels(self, channels_in, channels_out):
        return {"scale": (1,)}

    def norms(self):
        return ()

    def __call__(self, weights, norms, state):
        TRACES.append(self.tag)
        return state.whole * weights["scale"]


def test_blocks_of_equal_geometry_share_one_trace():
    function: BlockFunction = CountedFunction("shared")
    first, second = (Block(CountedFunction("shared"), 1, 1, affine=False) for _ in range(2))
    assert function == first.function
    first.vector.assign([2.0])
    second.vector.assign([3.0])
    x = tf.ones([1, 2, 2, 1])
    with Traces().shared():
        outputs = [float(tf.reduce_sum(block(x))) for block in (first, second, first)]
        assert outputs == [8, 12, 8]  # one trace, yet each has its own weights
        assert TRACES.count("shared") == 1
        first(tf.ones([1, 3, 3, 1]))
        assert TRACES.count("shared") == 2
        Block(CountedFunction("another"), 1, 1, affine=False)(x)
    assert (TRACES.count("shared"), TRACES.count("another")) == (2, 1)


@pytest.mark.parametrize("wanted", ["weights", "alphas"])
def test_blocks_share_a_trace_of_their_own_where_fewer_gradients_are_wanted(wanted):
    """A trace that leaves gradients out must not serve whoever wants them, nor be made twice."""
    tag = f"only {wanted}"
    first, second = (Block(CountedFunction(tag), 1, 1, affine=False) for _ in range(2))
    x = tf.ones([1, 2, 2, 1])

    def gradient(block):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(block(x))
        return tape.gradient(y, block.vector.value)

    with Traces().shared():
        for block in (first, second) * 2:
            with gradients_of(wanted):
                assert (gradient(block) is None) == (wanted == "alphas")
            np.testing.assert_array_equal(gradient(block), [4])
    assert TRACES.count(tag) == 2
