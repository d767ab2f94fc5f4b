"""Every primitive in both forms: shapes, names of weights, the registry."""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.genotype import CNN_EVALUATION_PRIMITIVES, CNN_PRIMITIVES
from darts_tf.space.block import Block, PrimitiveFunction
from darts_tf.space.primitives import (
    ACTIVATIONS,
    FACTORIZED_REDUCE,
    PRIMITIVES,
    RELU_CONV_BN,
    Primitive,
    activation_function,
    check_primitives,
    primitive,
)
from darts_tf.space.state import State

SEPARABLE = {"dw1/kernel", "pw1/kernel", "dw2/kernel", "pw2/kernel"}
REDUCE = {"conv1/kernel", "conv2/kernel"}
# Kernels and BatchNorms of each primitive, at stride 1 and 2.
KERNELS = {
    "none": (set(), set()),
    "max_pool_3x3": (set(), set()),
    "avg_pool_3x3": (set(), set()),
    "skip_connect": (set(), REDUCE),
    "sep_conv_3x3": (SEPARABLE, SEPARABLE),
    "sep_conv_5x5": (SEPARABLE, SEPARABLE),
    "sep_conv_7x7": (SEPARABLE, SEPARABLE),
    "dil_conv_3x3": ({"dw/kernel", "pw/kernel"},) * 2,
    "dil_conv_5x5": ({"dw/kernel", "pw/kernel"},) * 2,
    "conv_7x1_1x7": ({"conv1x7/kernel", "conv7x1/kernel"},) * 2,
}
POOLS = ("max_pool_3x3", "avg_pool_3x3")
TWICE_NORMALISED = ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7")


def state(x, stride=1):
    return State(stride, activation_function("relu"), whole=tf.constant(x))


def expected_norms(name, stride, search):
    if name in TWICE_NORMALISED:
        return {"bn1", "bn2"}
    if name in POOLS:
        return {"bn"} if search else set()
    return {"bn"} if KERNELS[name][stride - 1] else set()


def test_registry_and_genotypes_know_the_same_primitives():
    assert set(PRIMITIVES) == {*CNN_PRIMITIVES, *CNN_EVALUATION_PRIMITIVES}
    assert set(KERNELS) == set(PRIMITIVES)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("search", [True, False], ids=["search", "evaluation"])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_primitive_keeps_channels_and_divides_odd_and_even_sizes(name, search, stride):
    function = PrimitiveFunction(primitive(name), stride, search)
    for channels, (height, width) in ((1, (7, 6)), (3, (8, 8)), (5, (6, 5))):
        block = Block(function, channels, channels, affine=not search)
        x = tf.random.stateless_normal([2, height, width, channels], seed=[1, 2])
        for training in (True, False):
            y = block(x, training=training)
            assert y.shape == (2, -(-height // stride), -(-width // stride), channels)
            assert np.isfinite(y).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("search", [True, False], ids=["search", "evaluation"])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_names_of_weights_and_statistics(name, search, stride):
    block = Block(PrimitiveFunction(primitive(name), stride, search), 4, 4, affine=not search)
    norms = expected_norms(name, stride, search)
    affine = set() if search else {f"{n}/{kind}" for n in norms for kind in ("gamma", "beta")}
    assert set(block.named_parameters()) == KERNELS[name][stride - 1] | affine
    statistics = {f"{n}/moving_{kind}" for n in norms for kind in ("mean", "variance")}
    assert set(block.named_statistics()) == statistics


@pytest.mark.parametrize(
    "name, channels, count",
    [
        ("sep_conv_3x3", 4, 2 * (9 * 4 + 16)),
        ("sep_conv_5x5", 4, 2 * (25 * 4 + 16)),
        ("sep_conv_7x7", 4, 2 * (49 * 4 + 16)),
        ("dil_conv_3x3", 4, 9 * 4 + 16),
        ("dil_conv_5x5", 4, 25 * 4 + 16),
        ("conv_7x1_1x7", 4, 2 * 7 * 16),
        ("skip_connect", 0, 0),
    ],
)
def test_number_of_weights(name, channels, count):
    kernels = primitive(name).kernels(channels, channels, 1)
    assert sum(int(np.prod(shape)) for shape in kernels.values()) == count


@pytest.mark.parametrize("stride", [1, 2])
def test_none_gives_zeros(stride):
    x = tf.random.stateless_normal([2, 5, 6, 3], seed=[3, 4])
    y = PrimitiveFunction(primitive("none"), stride, True)({}, None, state(x, stride))
    np.testing.assert_array_equal(y, np.zeros((2, -(-5 // stride), 6 // stride, 3)))


def test_none_lets_a_nan_through():
    x = np.zeros((1, 2, 2, 1), np.float32)
    x[0, 0, 0] = np.nan
    y = PrimitiveFunction(primitive("none"), 1, True)({}, None, state(x)).numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


def test_skip_connect_at_stride_1_is_the_identity_without_activation():
    x = tf.random.stateless_normal([2, 5, 6, 3], seed=[3, 4])
    y = PrimitiveFunction(primitive("skip_connect"))({}, None, state(x))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
@pytest.mark.parametrize("channels_out, odd", [(4, 2), (5, 2), (1, 0)])
def test_factorized_reduction_reads_even_pixels_then_odd_ones(size, channels_out, odd):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, *size, 3))
    even_kernel = random.normal(size=(1, 1, 3, channels_out - odd))
    odd_kernel = random.normal(size=(1, 1, 3, odd))
    kernels = {"conv1/kernel": tf.constant(even_kernel), "conv2/kernel": tf.constant(odd_kernel)}
    shapes = FACTORIZED_REDUCE.kernels(3, channels_out, 2)
    assert shapes == {key: tuple(kernel.shape) for key, kernel in kernels.items()}

    y = FACTORIZED_REDUCE.apply(state(x, 2), kernels, lambda name, h: h, 2, True).numpy()
    positive = np.maximum(x, 0)
    for row in range(-(-size[0] // 2)):
        for column in range(-(-size[1] // 2)):
            even = positive[:, 2 * row, 2 * column]
            inside = 2 * row + 1 < size[0] and 2 * column + 1 < size[1]
            shifted = positive[:, 2 * row + 1, 2 * column + 1] if inside else 0 * even
            expected = np.concatenate([even @ even_kernel[0, 0], shifted @ odd_kernel[0, 0]], -1)
            np.testing.assert_allclose(y[:, row, column], expected, rtol=0, atol=1e-12)


def test_preprocessing_is_activation_then_product_then_norm():
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(2, 3, 3, 2)), random.normal(size=(1, 1, 2, 4))
    y = RELU_CONV_BN.apply(
        state(x),
        {"conv/kernel": tf.constant(kernel)},
        lambda name, h: {"bn": 10 * h}[name],
        1,
        True,
    )
    np.testing.assert_allclose(y, 10 * (np.maximum(x, 0) @ kernel[0, 0]), rtol=0, atol=1e-12)


def test_separable_convolution_activates_and_normalises_twice():
    # With kernels that pass on the pixel itself only activations and BatchNorms are left.
    centre = np.zeros((3, 3, 1, 1))
    centre[1, 1] = 1
    one = np.ones((1, 1, 1, 1))
    kernels = {
        "dw1/kernel": tf.constant(centre),
        "pw1/kernel": tf.constant(one),
        "dw2/kernel": tf.constant(centre),
        "pw2/kernel": tf.constant(one),
    }
    shift = {"bn1": -1.0, "bn2": -3.0}
    x = np.array([-2.0, 0.5, 1.5, 4.0]).reshape(1, 2, 2, 1)
    y = primitive("sep_conv_3x3").apply(state(x), kernels, lambda name, h: h + shift[name], 1, True)
    np.testing.assert_allclose(np.ravel(y), [-3, -3, -2.5, 0], rtol=0, atol=1e-12)


def test_unknown_primitive_lists_the_known():
    with pytest.raises(InputError, match=r"Unknown primitive 'sep_conv_9x9'\. Known: .*none.*7x7"):
        primitive("sep_conv_9x9")


def test_unknown_activation_lists_the_known():
    with pytest.raises(
        InputError, match=r"Unknown activation 'gelu'\. Known: relu, softplus, tanh"
    ):
        activation_function("gelu")


def test_activations_compute_what_they_are_called():
    x = np.array([-1.5, 0.0, 2.0])
    expected = {"relu": np.maximum(x, 0), "softplus": np.log1p(np.exp(x)), "tanh": np.tanh(x)}
    assert set(ACTIVATIONS) == set(expected)
    for name, values in expected.items():
        actual = activation_function(name)(tf.constant(x))
        np.testing.assert_allclose(actual, values, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "names, words",
    [
        (("skip_connect", "skip_connect"), "can be a candidate once. Received: skip_connect, skip"),
        (("none",), "at least one primitive other than 'none'. Received: none"),
        ((), "at least one primitive other than 'none'. Received: no names"),
        (("none", "conv"), "Unknown primitive 'conv'"),
    ],
)
def test_unusable_search_spaces_are_refused(names, words):
    with pytest.raises(InputError, match=words):
        check_primitives(names)


def test_a_search_space_keeps_its_order():
    assert check_primitives(["skip_connect", "none"]) == ("skip_connect", "none")


def test_a_primitive_without_a_function_says_what_it_needs():
    with pytest.raises(TypeError, match=r"Primitive must define apply\(\)"):
        Primitive().apply(None, {}, None, 1, True)
