"""The supernet: published sizes, alphas that are no weights, unusual sizes, saving, errors."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError
from darts_tf.genotype import CNN_PRIMITIVES
from darts_tf.networks.skeleton import Classifier, cell_plans
from darts_tf.networks.supernet import Supernet

CHEAP = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")


@pytest.fixture(scope="module")
def published():
    return Supernet()


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(0)
    network = Supernet(3, 2, 2, 2, (9, 8, 1), primitives=CHEAP)
    network(images(network, 4), training=True)  # moves the running statistics
    return network


def images(network, batch, seed=0):
    return tf.random.stateless_normal([batch, *network.image_shape], seed=[seed, 1])


def test_published_supernet_has_the_published_weights(published):
    named = published.named_parameters()
    assert len(named) == 1399
    assert sum(int(np.prod(view.shape)) for view in named.values()) == 1_930_618
    assert sum(int(np.prod(v.shape)) for v in published.trainable_variables) == 1_930_618
    assert [tuple(v.shape) for v in published.architecture_parameters] == [(14, 8), (14, 8)]


def test_alphas_are_no_weights(published):
    alphas = published.architecture_parameters
    assert alphas == [published.alphas_normal, published.alphas_reduce]
    for variables in (published.trainable_variables, published.network_parameters):
        assert not any(v is a for v in variables for a in alphas)
    assert published.network_parameters == published.trainable_variables
    assert all(any(v is a for v in published.non_trainable_variables) for a in alphas)
    optimizer = darts_tf.SGD()
    optimizer.build(published.network_parameters)
    assert len(optimizer.momentum_buffers) == len(published.trainable_variables)


def test_alphas_start_small_and_different(published):
    values = np.concatenate([np.ravel(a.numpy()) for a in published.architecture_parameters])
    assert len(set(values)) == 224
    assert 5e-4 < values.std() < 2e-3 and np.abs(values).max() < 1e-2


def test_outputs_of_stem_and_cells_have_the_published_shapes():
    network = Supernet(init_channels=2, primitives=("none", "skip_connect"))
    outputs = network.forward(tf.zeros([1, 32, 32, 3]))
    assert [tuple(y.shape[1:]) for y in outputs] == [
        (32, 32, 3 * 2),
        *[(32, 32, 4 * 2)] * 2,
        *[(16, 16, 4 * 4)] * 3,
        *[(8, 8, 4 * 8)] * 3,
        (10,),
    ]


@pytest.mark.parametrize(
    "size, channels, cells, nodes",
    [((9, 9), 1, 1, 1), ((15, 15), 4, 2, 2), ((28, 28), 1, 5, 3), ((30, 30), 4, 2, 4)]
    + [((15, 28), 3, 1, 5)],
)
def test_unusual_sizes_run(size, channels, cells, nodes):
    network = Supernet(4, 2, cells, nodes, (*size, channels), primitives=CHEAP)
    outputs = network.forward(images(network, 2), training=True)
    assert len(outputs) == cells + 2
    assert outputs[-1].shape == (2, 4) == network.compute_output_shape((2, *size, channels))
    assert np.isfinite(outputs[-1]).all()
    reductions = len({cells // 3, 2 * cells // 3})
    expected = size
    for _ in range(reductions):
        expected = tuple(-(-side // 2) for side in expected)
    assert tuple(outputs[-2].shape) == (2, *expected, nodes * 2 * 2**reductions)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_odd_numbers_of_channels_run_with_all_primitives(channels):
    network = Supernet(2, channels, 2, 1, (8, 8, 3), primitives=CNN_PRIMITIVES)
    assert np.isfinite(network(images(network, 2), training=True)).all()


@pytest.mark.parametrize(
    "cells, channels, expected",
    [
        (8, 16, ([16] * 2 + [32] * 3 + [64] * 3, {2, 5})),
        (20, 36, ([36] * 6 + [72] * 7 + [144] * 7, {6, 13})),
        (14, 48, ([48] * 4 + [96] * 5 + [192] * 5, {4, 9})),
        (1, 2, ([4], {0})),
        (2, 2, ([4, 8], {0, 1})),
    ],
)
def test_reductions_stand_at_one_and_two_thirds(cells, channels, expected):
    plans = cell_plans(cells, channels)
    assert [plan.channels for plan in plans] == expected[0]
    assert {i for i, plan in enumerate(plans) if plan.reduction} == expected[1]
    assert {i for i, plan in enumerate(plans) if plan.reduction_before} == {
        i + 1 for i in expected[1] if i + 1 < cells
    }
    assert cell_plans(cells, channels, reduction_before_first=True)[0].reduction_before


def test_classifier_is_mean_then_product(precision):
    classifier = Classifier(3, 2)
    x = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    expected = x.mean((1, 2)) @ classifier.kernel.numpy() + classifier.bias.numpy()
    np.testing.assert_allclose(classifier(tf.constant(x)), expected, rtol=0, atol=1e-12)
    bound = 3**-0.5
    for value in (classifier.kernel, classifier.bias):
        assert 0 < np.abs(value.numpy()).max() <= bound


def test_normal_cells_read_their_alphas_and_reduction_cells_theirs():
    # Of the cells of a network of five, the second and the fourth are reductions.
    network = Supernet(2, 2, 5, 1, (8, 8, 1), primitives=("none", "skip_connect"))
    x = images(network, 2)
    before = [y.numpy() for y in network.forward(x)]
    network.alphas_reduce.assign(network.alphas_reduce.numpy() + [[0, 1.0]])
    after = [y.numpy() for y in network.forward(x)]
    assert [bool(np.array_equal(a, b)) for a, b in zip(before, after, strict=True)] == [
        *[True] * 2,
        *[False] * 5,
    ]
    network.alphas_normal.assign(network.alphas_normal.numpy() + [[0, 1.0]])
    again = [y.numpy() for y in network.forward(x)]
    assert np.array_equal(after[0], again[0]) and not np.array_equal(after[1], again[1])


def test_derive_reads_the_present_alphas(tiny):
    alphas = np.zeros((5, 4))
    alphas[[0, 1, 2, 4], [3, 1, 2, 3]] = 5.0
    saved = [a.numpy() for a in tiny.architecture_parameters]
    for variable in tiny.architecture_parameters:
        variable.assign(alphas)
    genotype = tiny.derive()
    for variable, value in zip(tiny.architecture_parameters, saved, strict=True):
        variable.assign(value)
    nodes = (
        (("dil_conv_3x3", 0), ("max_pool_3x3", 1)),
        (("skip_connect", 0), ("dil_conv_3x3", 2)),
    )
    assert genotype == darts_tf.Genotype(nodes, (2, 3), nodes, (2, 3))


def test_configuration_makes_the_same_network(tiny):
    config = tiny.get_config()
    assert config == {
        "num_classes": 3,
        "init_channels": 2,
        "num_cells": 2,
        "num_nodes": 2,
        "image_shape": [9, 8, 1],
        "primitives": list(CHEAP),
        "activation": "relu",
        "recompute": False,
        "name": "supernet",
        "preprocessing": None,
    }
    other = Supernet.from_config(config)
    assert other.get_config() == config
    other.set_weights(tiny.get_weights())
    x = images(tiny, 3)
    np.testing.assert_array_equal(other(x), tiny(x))


def test_a_saved_supernet_gives_equal_outputs(tiny, tmp_path):
    tiny.save(tmp_path / "supernet.keras")
    other = keras.saving.load_model(tmp_path / "supernet.keras")
    x = images(tiny, 3)
    np.testing.assert_array_equal(other(x), tiny(x))
    for ours, theirs in zip(
        tiny.architecture_parameters, other.architecture_parameters, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"image_shape": (7, 8, 3)}, "Images of 7x8 px are too small: this network halves them 2"),
        ({"image_shape": (32, 32)}, "image_shape must be .* three positive integers.*32, 32"),
        ({"image_shape": (32, 32, 0)}, "image_shape must be .* three positive integers"),
        ({"image_shape": (32.0, 32, 3)}, "image_shape must be .* three positive integers"),
        ({"num_classes": 0}, "num_classes must be a whole number of 1 or more. Received: 0"),
        ({"init_channels": 1.5}, "init_channels must be a whole number of 1 or more.*: 1.5"),
        ({"num_cells": -1}, "num_cells must be a whole number of 1 or more.*: -1"),
        ({"num_nodes": True}, "num_nodes must be a whole number of 1 or more.*: True"),
        ({"primitives": ("conv",)}, "Unknown primitive 'conv'. Known:"),
        ({"primitives": ("none",)}, "at least one primitive other than 'none'"),
        ({"activation": "gelu"}, "Unknown activation 'gelu'. Known:"),
    ],
)
def test_unusable_arguments_are_refused_in_words(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        Supernet(**arguments)
    assert "\n" not in str(caught.value)


def test_too_small_images_are_told_the_least_size():
    with pytest.raises(InputError, match="needs at least 8 px in height and width"):
        Supernet(image_shape=(4, 4, 3))


@pytest.mark.parametrize("shape", [(2, 9, 8, 3), (2, 8, 8, 1), (9, 8, 1)])
def test_a_wrong_batch_is_told_both_shapes(tiny, shape):
    with pytest.raises(InputError, match=r"made for images of shape \(9, 8, 1\)") as caught:
        tiny(tf.zeros(shape))
    assert f"batch of shape {shape}" in str(caught.value)


def test_a_supernet_and_its_traces_are_freed_with_it():
    supernet = darts_tf.Supernet(3, 2, 2, 2, (8, 8, 1))
    search = darts_tf.ArchitectureSearch(supernet, order="first")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    search.compile(darts_tf.SGD(), darts_tf.Adam(), loss)
    batch = tf.ones([2, 8, 8, 1]), tf.constant([0, 1])
    step = tf.function(search.train_step, autograph=False)
    step((batch, batch))
    weights, traces = weakref.ref(supernet.cells[0].edges.vector), weakref.ref(supernet._traces)
    del supernet, search, step
    keras.backend.clear_session()
    gc.collect()
    assert weights() is None
    assert traces() is None
