"""The evaluation network: published sizes, both stems, drop path, unusual cells, saving, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError
from darts_tf.genotype import zoo
from darts_tf.networks.auxiliary import AuxiliaryHead, pool_to_2
from darts_tf.networks.evaluation import EvaluationNetwork
from darts_tf.space.cells import DerivedCell

CIFAR = {"init_channels": 36, "num_cells": 20, "auxiliary": True}
IMAGENET = {
    "num_classes": 1000,
    "init_channels": 48,
    "num_cells": 14,
    "auxiliary": True,
    "image_shape": (224, 224, 3),
    "stem": "imagenet",
}
# Nodes of one, three and two inputs; cells without weights other than their preprocessing.
UNEVEN = darts_tf.Genotype(
    normal=[
        [("sep_conv_3x3", 0)],
        [("skip_connect", 0), ("max_pool_3x3", 1), ("dil_conv_3x3", 2)],
        [("skip_connect", 3), ("avg_pool_3x3", 1)],
    ],
    normal_concat=[2, 4],
    reduce=[[("skip_connect", 1)], [("max_pool_3x3", 0), ("skip_connect", 2)]],
    reduce_concat=[3],
)
LIGHT = darts_tf.Genotype(
    normal=[[("skip_connect", 0), ("max_pool_3x3", 1)]],
    normal_concat=[2],
    reduce=[[("skip_connect", 0), ("avg_pool_3x3", 1)]],
    reduce_concat=[2],
)


def images(network, batch, seed=0):
    return tf.random.stateless_normal([batch, *network.image_shape], seed=[seed, 1])


@pytest.mark.parametrize(
    "name, network, weights, auxiliary",
    [
        ("DARTS_V2", CIFAR, 3_349_342, 476_426),
        ("DARTS_V1", CIFAR, 3_169_414, 476_426),
        ("NASNet", CIFAR, 3_830_950, 457_994),
        ("AmoebaNet", CIFAR, 3_145_078, 457_994),
        ("DARTS_V2", IMAGENET, 4_718_752, 1_260_776),
        ("DARTS_V1", IMAGENET, 4_510_432, 1_260_776),
        ("NASNet", IMAGENET, 5_564_320, 1_236_200),
        ("AmoebaNet", IMAGENET, 4_627_360, 1_236_200),
    ],
)
def test_published_networks_have_the_published_weights(name, network, weights, auxiliary):
    made = EvaluationNetwork(zoo.genotype(name), **network)
    assert made.count_weights() == weights
    total = sum(int(np.prod(v.shape)) for v in made.trainable_variables)
    assert total == weights + auxiliary


def test_cells_of_the_cifar_network_have_the_published_shapes():
    network = EvaluationNetwork(LIGHT_OF_FOUR, init_channels=2, auxiliary=True)
    outputs = network.forward(tf.zeros([1, 32, 32, 3]), training=True)
    assert [tuple(y.shape[1:]) for y in outputs.cells] == [
        *[(32, 32, 4 * 2)] * 6,
        *[(16, 16, 4 * 4)] * 7,
        *[(8, 8, 4 * 8)] * 7,
    ]
    assert outputs.logits.shape == outputs.auxiliary_logits.shape == (1, 10)
    assert network.auxiliary_cell == 13
    assert network.auxiliary_head.pools == [(5, 3), (5, 3)]


# Cells of four joined nodes, as the published ones, that are cheap to run.
LIGHT_OF_FOUR = darts_tf.Genotype(
    normal=[[("skip_connect", 0), ("skip_connect", 1)]] * 4,
    normal_concat=[2, 3, 4, 5],
    reduce=[[("max_pool_3x3", 0), ("max_pool_3x3", 1)]] * 4,
    reduce_concat=[2, 3, 4, 5],
)


def test_cells_of_the_imagenet_network_have_the_published_shapes():
    network = EvaluationNetwork(
        LIGHT_OF_FOUR,
        init_channels=2,
        num_cells=14,
        auxiliary=True,
        image_shape=(224, 224, 3),
        stem="imagenet",
    )
    outputs = network.forward(tf.zeros([1, 224, 224, 3]), training=True)
    assert [tuple(y.shape[1:]) for y in outputs.cells] == [
        *[(28, 28, 4 * 2)] * 4,
        *[(14, 14, 4 * 4)] * 5,
        *[(7, 7, 4 * 8)] * 5,
    ]
    assert network.auxiliary_cell == 9
    assert network.auxiliary_head.pools == [(5, 2), (5, 2)]
    assert outputs.auxiliary_logits.shape == (1, 10)


def test_imagenet_stem_runs_at_64_px():
    network = EvaluationNetwork(
        UNEVEN, 5, 4, 3, auxiliary=True, image_shape=(64, 64, 3), stem="imagenet"
    )
    outputs = network.forward(images(network, 2), training=True)
    assert [y.shape[1] for y in outputs.cells] == [8, 4, 2]
    assert np.isfinite(outputs.logits).all() and np.isfinite(outputs.auxiliary_logits).all()
    assert network(images(network, 2)).shape == (2, 5)


@pytest.mark.parametrize(
    "size, channels, cells", [((9, 9), 1, 1), ((15, 15), 4, 2), ((28, 28), 1, 5), ((30, 15), 4, 2)]
)
def test_unusual_sizes_run(size, channels, cells):
    network = EvaluationNetwork(UNEVEN, 3, 2, cells, auxiliary=True, image_shape=(*size, channels))
    outputs = network.forward(images(network, 2), training=True)
    assert outputs.logits.shape == outputs.auxiliary_logits.shape == (2, 3)
    assert np.isfinite(outputs.logits).all() and np.isfinite(outputs.auxiliary_logits).all()


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(0)
    network = EvaluationNetwork(UNEVEN, 3, 2, 3, auxiliary=True, image_shape=(9, 8, 1), seed=4)
    network(images(network, 4), training=True)  # moves the running statistics
    return network


def test_auxiliary_head_serves_training_only(tiny):
    x = images(tiny, 2)
    assert tiny.forward(x, training=False).auxiliary_logits is None
    assert tiny.forward(x, training=True).auxiliary_logits.shape == (2, 3)
    without = EvaluationNetwork(UNEVEN, 3, 2, 3, image_shape=(9, 8, 1))
    assert without.forward(x, training=True).auxiliary_logits is None
    assert without.count_weights() == tiny.count_weights()
    assert not any(key.startswith("auxiliary/") for key in without.named_parameters())


def test_auxiliary_head_is_its_formula(precision):
    head = AuxiliaryHead(2, 3, [8, 8], "cifar")
    random = np.random.default_rng(0)
    for view in head.named_parameters().values():
        view.assign(random.normal(size=view.shape))
    w = {key: view.numpy() for key, view in head.named_parameters().items()}
    x = random.normal(size=(5, 8, 8, 2))

    def normalised(h, name):
        h = (h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + 1e-5)
        return np.maximum(h * w[f"{name}/bn/gamma"] + w[f"{name}/bn/beta"], 0)

    positive = np.maximum(x, 0)
    rows = [[positive[:, i : i + 5, j : j + 5].mean((1, 2)) for j in (0, 3)] for i in (0, 3)]
    h = np.stack([np.stack(row, 1) for row in rows], 1)
    h = normalised(h @ w["stage1/conv/kernel"][0, 0], "stage1")
    h = np.einsum("bijc,ijco->bo", h, w["stage2/conv/kernel"])[:, None, None]
    h = normalised(h, "stage2")[:, 0, 0]
    expected = h @ w["classifier/kernel"] + w["classifier/bias"]
    np.testing.assert_allclose(head(tf.constant(x), training=True), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", range(2, 40))
def test_auxiliary_pool_makes_two_pixels_and_reads_all(size):
    window, stride = pool_to_2(size)
    assert (size - window) // stride + 1 == 2
    assert 2 * stride > size - window - stride and window + stride == size


def test_imagenet_head_has_no_norm_behind_its_second_convolution():
    names = set(AuxiliaryHead(2, 3, [7, 7], "imagenet").named_parameters())
    assert {n for n in names if "bn" in n} == {"stage1/bn/gamma", "stage1/bn/beta"}
    names = set(AuxiliaryHead(2, 3, [8, 8], "cifar").named_parameters())
    assert {n for n in names if n.startswith("stage2/bn")} == {"stage2/bn/gamma", "stage2/bn/beta"}


def test_auxiliary_head_refuses_a_single_pixel():
    with pytest.raises(InputError, match="at least 2x2 px, and the cell it would read is 1x4"):
        AuxiliaryHead(2, 3, [1, 4], "cifar")


# ------------------------------------------------------------------------------------ drop path


@pytest.fixture
def masks(monkeypatch):
    """The factors that every cell was called with, in order; a list that grows."""
    seen, call = [], DerivedCell.call

    def recording(self, before_last, last, keep=None, training=False):
        seen.append(keep)
        return call(self, before_last, last, keep, training)

    monkeypatch.setattr(DerivedCell, "call", recording)
    return seen


def drop_path_network(genotype=LIGHT, probability=0.3, **options):
    network = EvaluationNetwork(genotype, 2, 1, 3, image_shape=(8, 8, 1), **options)
    network.drop_path_prob.assign(probability)
    return network


def test_drop_path_drops_examples_at_its_rate_and_scales_the_rest(masks):
    # The first cell is normal (one site: the pool), the other two are reductions (two sites each).
    network = drop_path_network()
    assert network.drop_path_sites == 5
    network(images(network, 4000), training=True)
    assert [len(keep) for keep in masks] == [1, 2, 2]
    factors = np.stack([factor.numpy() for keep in masks for factor in keep])
    assert factors.shape == (5, 4000)
    dropped = factors == 0
    np.testing.assert_allclose(factors[~dropped], 1 / 0.7, rtol=1e-6)
    rates = dropped.mean(1)
    deviation = np.sqrt(0.3 * 0.7 / 4000)
    assert np.abs(rates - 0.3).max() < 4.5 * deviation
    # Sites are independent of each other: no two drop the same examples more often than by chance.
    correlation = np.corrcoef(dropped) - np.eye(5)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(4000)


def test_masks_are_a_function_of_seed_and_step(masks):
    def drawn(network, steps):
        masks.clear()
        for _ in range(steps):
            network(images(network, 32), training=True)
        drawn = [factor.numpy() for keep in masks for factor in keep]
        return np.array(drawn).reshape(steps, -1, 32)

    first = drawn(drop_path_network(seed=1), 3)
    np.testing.assert_array_equal(drawn(drop_path_network(seed=1), 3), first)
    assert len({step.tobytes() for step in first}) == 3
    assert not np.array_equal(drawn(drop_path_network(seed=2), 1)[0], first[0])
    resumed = drop_path_network(seed=1)
    resumed.drop_path_step.assign(2)
    np.testing.assert_array_equal(drawn(resumed, 1)[0], first[2])


def test_nothing_is_dropped_in_evaluation(masks):
    network = drop_path_network(probability=0.9)
    x = images(network, 16)
    before = network(x).numpy()
    np.testing.assert_array_equal(network(x), before)
    assert masks == [None] * 6
    network.drop_path_prob.assign(0.0)
    np.testing.assert_array_equal(network(x), before)
    assert int(network.drop_path_step) == 0


def test_probability_zero_drops_nothing_in_training():
    network = drop_path_network(probability=0.0)
    x = images(network, 16)
    drawn = network.forward(x, training=True).logits
    ones = [tf.ones([16])] * network.drop_path_sites
    np.testing.assert_array_equal(drawn, network.forward(x, training=True, keep=ones).logits)


def test_the_identity_is_never_dropped():
    genotype = darts_tf.Genotype(
        [[("skip_connect", 0), ("skip_connect", 1)]],
        [2],
        [[("skip_connect", 0), ("skip_connect", 1)], [("skip_connect", 2), ("max_pool_3x3", 2)]],
        [3],
    )
    # The identities of the normal cell and within the reduction cells are spared; of a reduction
    # cell the two factorized reductions and the pool are left.
    assert drop_path_network(genotype).drop_path_sites == 2 * 3


# --------------------------------------------------------------------------- training and saving


def test_cells_of_one_and_three_inputs_train(tiny):
    network = EvaluationNetwork.from_config(tiny.get_config())
    evaluation = darts_tf.ArchitectureEvaluation(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    evaluation.compile(darts_tf.SGD(0.05), loss=loss, metrics=["accuracy"])
    before = {key: view.numpy() for key, view in network.named_parameters().items()}
    results = evaluation.train_step((images(network, 6), tf.constant([0, 1, 2, 0, 1, 2])))
    assert np.isfinite(float(results["loss"]))
    still = [
        key
        for key, view in network.named_parameters().items()
        if np.all(view.numpy() == before[key])
    ]
    assert not still
    assert int(network.drop_path_step) == 1


def test_configuration_makes_the_same_network(tiny):
    config = tiny.get_config()
    assert {k: v for k, v in config.items() if k != "genotype"} == {
        "num_classes": 3,
        "init_channels": 2,
        "num_cells": 3,
        "auxiliary": True,
        "image_shape": [9, 8, 1],
        "stem": "cifar",
        "seed": 4,
        "name": "evaluation_network",
        "preprocessing": None,
    }
    other = EvaluationNetwork.from_config(config)
    assert other.genotype == tiny.genotype and other.get_config() == config
    other.set_weights(tiny.get_weights())
    np.testing.assert_array_equal(other(images(tiny, 3)), tiny(images(tiny, 3)))


def test_a_saved_network_gives_equal_outputs(tiny, tmp_path):
    tiny.save(tmp_path / "network.keras")
    other = keras.saving.load_model(tmp_path / "network.keras")
    assert other.genotype == tiny.genotype
    np.testing.assert_array_equal(other(images(tiny, 3)), tiny(images(tiny, 3)))
    assert int(other.drop_path_step) == int(tiny.drop_path_step) > 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"genotype": "DARTS_V2"}, "genotype must be a darts_tf.Genotype. Received: 'DARTS_V2'"),
        ({"stem": "mnist"}, "Unknown stem 'mnist'. Known: cifar, imagenet"),
        ({"num_cells": 0}, "num_cells must be a whole number of 1 or more. Received: 0"),
        ({"num_classes": "10"}, "num_classes must be a whole number of 1 or more.*'10'"),
        ({"init_channels": 0}, "init_channels must be a whole number of 1 or more"),
        ({"image_shape": (6, 32, 3)}, "Images of 6x32 px are too small.* at least 8 px"),
        ({"image_shape": (31, 64, 3), "stem": "imagenet"}, "halves them 5 times.* at least 32 px"),
        ({"image_shape": 32}, "image_shape must be .* three positive integers.*32"),
    ],
)
def test_unusable_arguments_are_refused_in_words(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        EvaluationNetwork(**{"genotype": LIGHT, **arguments})
    assert "\n" not in str(caught.value)


def test_an_imagenet_stem_needs_channels_for_its_first_half():
    with pytest.raises(InputError, match="init_channels"):
        EvaluationNetwork(
            LIGHT, init_channels=1, num_cells=3, image_shape=(64, 64, 3), stem="imagenet"
        )


def test_a_wrong_batch_is_told_both_shapes(tiny):
    with pytest.raises(InputError, match=r"made for images of shape \(9, 8, 1\).*\(2, 9, 8, 3\)"):
        tiny(tf.zeros([2, 9, 8, 3]))
