"""A model that is saved, loaded and trained further is the model that was never saved, bit for bit.

Also: every hook of Keras that is overridden has its counterpart, and returns every argument.
"""

import importlib
import inspect
import json
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.genotype import RecurrentGenotype
from darts_tf.losses import _LabelSmoothedCrossEntropy, label_smoothed_cross_entropy
from darts_tf.networks.language import RecurrentEvaluationNetwork, RecurrentSupernet
from darts_tf.networks.language_model import Regularization
from darts_tf.networks.lstm import LSTMNetwork
from darts_tf.search.architecture_search import ArchitectureSearch
from darts_tf.search.published_second_order import PublishedSecondOrder
from darts_tf.space.recurrent import RecurrentDerivedCell, RecurrentSearchCell
from tests.search_architecture_search_test import DenseSupernet, examples

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CELL = darts_tf.Genotype(
    normal=[[("skip_connect", 0), ("dil_conv_3x3", 1)]],
    normal_concat=[2],
    reduce=[[("max_pool_3x3", 0), ("skip_connect", 1)]],
    reduce_concat=[2],
)
RECURRENT = RecurrentGenotype([("tanh", 0), ("relu", 1)], [1, 2])
RATES = keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.5, 0.25, 0.125])


@keras.saving.register_keras_serializable(package="tests")
class SavedSupernet(DenseSupernet):
    def get_config(self):
        return {"normalise": self.norm is not None}


def search_of(supernet, order="first", optimizer=None, **options):
    search = ArchitectureSearch(supernet, order, clip_virtual_step=order != "first")
    search.compile(
        optimizer or darts_tf.SGD(RATES, 0.5, 0.01, 0.5),
        darts_tf.Adam(0.01, 0.25, 0.75, 1e-6, 0.01, legacy_epsilon=True),
        loss=CROSS_ENTROPY,
        metrics=["accuracy"],
        **options,
    )
    return search


def dense():
    pairs = darts_tf.pair(examples(16, 1), examples(16, 2), batch_size=8)
    return search_of(SavedSupernet(), "second_exact"), pairs


def words(seed, batch=2, count=2):
    x = np.random.default_rng(seed).integers(0, 6, (count * batch, 4)).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((x[:, :-1], x[:, 1:])).batch(batch)


def recurrent():
    rates = Regularization(0.5, 0.25, 0.25, 0.25)
    network = RecurrentSupernet(6, 3, 2, 2, 1, regularization=rates, jit_compile=False)
    # Not reset at an epoch's begin: what is carried has to come back with the model.
    return search_of(network), darts_tf.pair(words(1), words(2))


def evaluation():
    network = darts_tf.EvaluationNetwork(CELL, 3, 2, 2, auxiliary=True, image_shape=(8, 8, 1))
    network.drop_path_prob.assign(0.5)
    model = darts_tf.ArchitectureEvaluation(network, 0.25)
    model.compile(
        keras.optimizers.SGD(RATES, 0.5, nesterov=True),
        label_smoothed_cross_entropy(0.25),
        metrics=["accuracy"],
        evaluation_loss=CROSS_ENTROPY,
    )
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 8, 8, 1)).astype(np.float32), random.integers(0, 3, 8)
    return model, tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


def language():
    network = RecurrentEvaluationNetwork(
        RECURRENT, 6, 3, 2, 2, Regularization(0.5, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5)
    )
    model = darts_tf.LanguageModelTraining(network)
    model.compile(darts_tf.AveragedSGD(0.5, 0.01, 1.0))
    model.optimizer.start_averaging()
    model.optimizer.learning_rate = 0.25  # as in the middle of a window's rates
    return model, words(1)


def state_of(model):
    """Every number that a further step depends on."""
    optimizers = [model.optimizer, getattr(model, "arch_optimizer", None)]
    variables = [*model.variables, *(v for o in optimizers if o is not None for v in o.variables)]
    return [v.numpy() for v in variables]


def assert_equal(model, expected):
    for value, other in zip(state_of(model), state_of(expected), strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("make", [dense, recurrent, evaluation, language])
def test_what_was_saved_trains_as_if_it_had_not_been(make, tmp_path):
    keras.utils.set_random_seed(0)
    model, data = make()
    model.fit(data, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(loaded, model)
    for trained in (model, loaded):
        trained.fit(data, initial_epoch=1, epochs=2, verbose=0)
    assert_equal(loaded, model)
    results = [m.evaluate(_one_half(data), verbose=0, return_dict=True) for m in (model, loaded)]
    assert results[0] == results[1]


def _one_half(data):
    if isinstance(data, tf.data.Dataset):
        return data
    return data.valid.batches().take(2)


# ----------------------------------------------------------------------------- every hook has its


HOOKS = [
    ("get_config", "from_config"),
    ("get_compile_config", "compile_from_config"),
    ("get_build_config", "build_from_config"),
    ("save_own_variables", "load_own_variables"),
    ("save_assets", "load_assets"),
]
IMAGES = {"image_shape": (8, 9, 2), "num_classes": 3, "init_channels": 2, "num_cells": 2}
LANGUAGE = {
    "vocabulary_size": 6,
    "width": 3,
    "batch_size": 2,
    "evaluation_batch_size": 4,
    "regularization": Regularization(0.5, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5),
    "seed": 7,
    "name": "other",
}
GRADIENT = {"learning_rate": 0.5, "l2": 0.25, "clip_norm": 0.125, "name": "other"}
ADAM = {"beta_1": 0.25, "beta_2": 0.75, "epsilon": 1e-6, "l2": 0.01, "legacy_epsilon": True}
NARROW = {"primitives": ("none", "tanh"), "jit_compile": False}


def small_network():
    return darts_tf.EvaluationNetwork(CELL, 3, 2, 2, image_shape=(8, 8, 1))


# Every argument of every class that Keras may save, each other than its default.
ARGUMENTS = [
    (darts_tf.SGD, lambda: {**GRADIENT, "momentum": 0.75}),
    (darts_tf.SGD, lambda: {**GRADIENT, "momentum": 0.75, "learning_rate": RATES}),
    (darts_tf.Adam, lambda: {**ADAM, "learning_rate": 0.5, "name": "other"}),
    (darts_tf.Adam, lambda: {**ADAM, "learning_rate": RATES, "name": "other"}),
    (darts_tf.AveragedSGD, lambda: {**GRADIENT, "published": False}),
    (darts_tf.AveragedSGD, lambda: {**GRADIENT, "published": False, "learning_rate": RATES}),
    (
        darts_tf.Supernet,
        lambda: {
            **IMAGES,
            "num_nodes": 1,
            "primitives": ("none", "skip_connect"),
            "activation": "softplus",
            "recompute": True,
            "name": "other",
            "preprocessing": keras.layers.Rescaling(0.5),
        },
    ),
    (
        darts_tf.EvaluationNetwork,
        lambda: {
            **IMAGES,
            "genotype": CELL,
            "auxiliary": True,
            "stem": "imagenet",
            "image_shape": (64, 64, 2),
            "seed": 3,
            "name": "other",
            "preprocessing": keras.layers.Rescaling(0.5),
        },
    ),
    (RecurrentSupernet, lambda: {**LANGUAGE, **NARROW, "num_nodes": 1, "redraw_masks": True}),
    (RecurrentEvaluationNetwork, lambda: {**LANGUAGE, "genotype": RECURRENT}),
    (LSTMNetwork, lambda: {**LANGUAGE, "redraw_masks": True}),
    (RecurrentDerivedCell, lambda: {"genotype": RECURRENT, "width": 3, "name": "other"}),
    (RecurrentSearchCell, lambda: {**NARROW, "width": 3, "num_nodes": 1, "name": "other"}),
    (
        ArchitectureSearch,
        lambda: {
            "supernet": SavedSupernet(),
            "order": PublishedSecondOrder(1, 2),
            "clip_virtual_step": True,
            "name": "other",
        },
    ),
    (
        darts_tf.ArchitectureEvaluation,
        lambda: {"network": small_network(), "auxiliary_weight": 0.25, "name": "other"},
    ),
    (
        darts_tf.LanguageModelTraining,
        lambda: {
            "network": RecurrentEvaluationNetwork(**LANGUAGE, genotype=RECURRENT),
            "name": "other",
        },
    ),
    (PublishedSecondOrder, lambda: {"unmoved_start": 1, "unmoved_size": 2}),
    (_LabelSmoothedCrossEntropy, lambda: {"smoothing": 0.25}),
]


def classes():
    """All classes of the package."""
    found = {}
    for module in pkgutil.walk_packages(darts_tf.__path__, "darts_tf."):
        if ".bin" not in module.name:
            members = vars(importlib.import_module(module.name)).values()
            found |= {c: None for c in members if inspect.isclass(c) and _is_own(c)}
    return list(found)


def _is_own(a_class):
    return a_class.__module__.startswith("darts_tf.")


def test_every_hook_that_is_overridden_has_its_counterpart():
    """Unless Keras' own inverse does: `cls(**config)`, nothing else to be read."""
    overridden = 0
    for a_class in classes():
        for hook, inverse in HOOKS:
            here, there = (
                any(name in vars(c) for c in a_class.__mro__ if _is_own(c))
                for name in (hook, inverse)
            )
            overridden += here
            assert here or not there, (a_class, inverse)
            if hook == "get_config":
                assert not here or hasattr(a_class, inverse), a_class
            else:
                assert here == there, (a_class, hook)
        if issubclass(a_class, keras.Model) and "compile" in vars(a_class):
            given = set(inspect.signature(a_class.compile).parameters)
            by_keras = {"self", "optimizer", "metrics", "options"}
            assert given <= {*by_keras, *a_class.compile_arguments}, a_class
    assert overridden > 10


def test_every_class_that_keras_may_save_is_tried():
    registered = {c for c in classes() if keras.saving.get_registered_name(c) != c.__name__}
    assert registered == {a_class for a_class, _ in ARGUMENTS}


@pytest.mark.parametrize(("a_class", "arguments"), ARGUMENTS)
def test_a_configuration_has_every_argument(a_class, arguments):
    given = arguments()
    for name, parameter in inspect.signature(a_class).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert given[name] != parameter.default, name
    made = a_class(**given)
    config = json.loads(json.dumps(made.get_config(), default=str))
    assert set(given) <= set(config)
    for name, value in given.items():
        if isinstance(value, str | int | float | tuple):
            assert config[name] == (list(value) if isinstance(value, tuple) else value), name
    written = keras.saving.serialize_keras_object(made)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(written)))
    assert type(again) is a_class
    assert keras.saving.serialize_keras_object(again) == written
    assert written == keras.saving.serialize_keras_object(a_class(**given))
