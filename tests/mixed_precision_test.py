"""Half precision: gradients, trainings and exports come near those of float32, which they are not.

The search spaces are smooth: where a ReLU or a maximum has its kink, rounding decides.
"""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf import data, loss_scale
from darts_tf.losses import token_cross_entropy
from darts_tf.networks.lstm import LSTMNetwork
from darts_tf.report.export_text import export_language_model
from darts_tf.search import bilevel
from darts_tf.space import primitives

HALF = ("mixed_bfloat16", "mixed_float16")
NEAR = {"mixed_bfloat16": 0.04, "mixed_float16": 0.006}
"""Largest |g - g_float32| / |g_float32|: some ten roundings of 2^-9 and of 2^-12."""

NO_DROPOUT = darts_tf.Regularization(
    dropout=0.0, dropouth=0.0, dropoutx=0.0, dropouti=0.0, alpha=0.1, beta=0.1
)
GENOTYPE = darts_tf.RecurrentGenotype([("tanh", 0), ("sigmoid", 1)], [1, 2])


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    keras.utils.set_random_seed(1)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def images_search(order, candidates=("avg_pool_3x3", "skip_connect", "sep_conv_3x3")):
    supernet = darts_tf.Supernet(3, 2, 2, 1, (8, 8, 1), primitives=candidates, activation="tanh")
    search = darts_tf.ArchitectureSearch(supernet, order)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    search.compile(darts_tf.SGD(0.1, 0.0), darts_tf.Adam(0.01), loss)
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(8, 8, 8, 1)), random.integers(0, 3, 8)) for _ in range(2)]
    return search, [(tf.constant(x, tf.float32), tf.constant(y), None) for x, y in batches]


def text_search(order):
    supernet = darts_tf.RecurrentSupernet(
        11, 6, 8, 2, 1, regularization=NO_DROPOUT, jit_compile=False
    )
    search = darts_tf.ArchitectureSearch(supernet, order, clip_virtual_step=True)
    search.compile(darts_tf.SGD(2.0, 0.0, clip_norm=0.25), darts_tf.Adam(0.01), token_cross_entropy)
    for weights in supernet.network_parameters:
        weights.assign(10 * weights)  # at +-0.04 the alphas' gradient is almost 0
    words = np.random.default_rng(0).integers(0, 11, (2, 8, 4))
    return search, [(tf.constant(t[:, :-1]), tf.constant(t[:, 1:]), None) for t in words]


MAKERS = {"images": images_search, "text": text_search}


@functools.cache
def architecture_gradient(kind, order, precision):
    """The gradient of the alphas, as one vector."""
    with policy(precision):
        search, (train, validation) = MAKERS[kind](order)
    supernet = search.supernet

    def compute():
        w = tf.concat([tf.reshape(v, [-1]) for v in supernet.network_parameters], 0)
        alphas = [tf.convert_to_tensor(v) for v in supernet.architecture_parameters]
        with loss_scale.attempt(search.loss_scale, []) as overflows:

            def reduce(g):
                g, overflowed = loss_scale.checked(g)
                overflows.append(overflowed)
                return g

            found = bilevel.architecture_gradient(
                search.order,
                search.loss_function(train),
                search.loss_function(validation),
                w,
                alphas,
                search._virtual_step(),
                reduce,
            )
            return reduce(found.alphas), tf.reduce_any(overflows)

    function = tf.function(compute, autograph=False)
    for _ in range(12):  # until the scale has come down to what the gradients allow
        found, overflowed = function()
        if not overflowed:
            return np.concatenate([np.ravel(g) for g in found])
    raise AssertionError("the scale was lowered twelve times, and gradients still overflow")


@pytest.mark.parametrize(
    ("kind", "order", "precision"),
    [
        ("images", "first", "mixed_float16"),
        ("images", "second_fd", "mixed_bfloat16"),
        ("images", "second_exact", "mixed_bfloat16"),
        ("images", "second_exact", "mixed_float16"),
        ("text", "first", "mixed_float16"),
        ("text", "second_exact", "mixed_float16"),
    ],
)
def test_architecture_gradients_come_near_float32(kind, order, precision):
    exact, found = (architecture_gradient(kind, order, p) for p in ("float32", precision))
    assert found.dtype == np.float32
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    # The primitives of the text search have a ReLU among them.
    assert 0 < error < NEAR[precision] * (4 if kind == "text" else 1)


class Doubled(primitives.Primitive):
    """A user's own, written with stock operations: 2 x."""

    def apply(self, state, kernels, normalise, stride, search):
        return 2 * state.whole[:, ::stride, ::stride]


def test_nested_tapes_come_near_float32(monkeypatch):
    monkeypatch.setitem(primitives.PRIMITIVES, "doubled", Doubled())
    candidates = functools.partial(images_search, candidates=("doubled", "sep_conv_3x3"))
    monkeypatch.setitem(MAKERS, "tapes", candidates)
    exact, found = (
        architecture_gradient("tapes", "second_exact", p) for p in ("float32", "mixed_float16")
    )
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 0 < error < NEAR["mixed_float16"]


def test_a_finite_difference_through_layers_of_keras_is_warned_of():
    inputs = keras.Input((4,))
    with policy("mixed_bfloat16"):
        supernet = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    supernet.network_parameters = supernet.trainable_variables
    supernet.architecture_parameters, supernet.derive = [], lambda: None
    with pytest.warns(UserWarning, match="lost in the rounding of .* bfloat16.*second_exact"):
        darts_tf.ArchitectureSearch(supernet, "second_fd")
    darts_tf.ArchitectureSearch(supernet, "second_exact")  # the suite takes warnings for errors


@functools.cache
def digits():
    return data.load_images("digits", limit=96)


def evaluation():
    genotype = darts_tf.Genotype(
        [[("sep_conv_3x3", 0), ("dil_conv_3x3", 1)]],
        [2],
        [[("max_pool_3x3", 0), ("skip_connect", 1)]],
        [2],
    )
    shape, classes = digits().image_shape, digits().num_classes
    scale = digits().normalization
    network = darts_tf.EvaluationNetwork(genotype, classes, 6, 2, True, shape, preprocessing=scale)
    network.drop_path_prob.assign(0.1)
    model = darts_tf.ArchitectureEvaluation(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(darts_tf.SGD(0.05), loss, metrics=["accuracy"])
    return model


def fitted(model):
    """Trains on digits; the final loss and accuracy on the same images, and the model."""
    known = digits()
    batches = data.evaluation_batches(known.train_images, known.train_labels, 16)
    model.fit(batches, epochs=25, verbose=0, shuffle=False)
    return model.evaluate(batches, verbose=0, return_dict=True)


def test_trainings_on_digits_end_near_float32(tmp_path):
    results = {}
    for precision in ("float32", *HALF):
        with policy(precision):
            model = evaluation()
        results[precision] = fitted(model)
        # What is written computes in float32, and is checked against the network to 1e-6.
        darts_tf.export_saved_model(model.network, tmp_path / precision)
        images = digits().test_images[:20]
        exported = tf.saved_model.load(tmp_path / precision)
        served = exported.serve(images)["logits"].numpy()
        own = model.network(images, training=False).numpy()
        scale = np.abs(own).max()
        assert (np.abs(served - own).max() < 1e-5 * scale) == (precision == "float32")
        assert np.abs(served - own).max() < 0.05 * scale
        assert all(v.dtype in ("float32", "int64") for v in model.network.variables)
    exact = results["float32"]
    assert exact["loss"] < 0.5 and exact["accuracy"] > 0.9  # from log 10 = 2.3 and 0.1
    for precision in HALF:
        assert results[precision]["loss"] == pytest.approx(exact["loss"], abs=0.2)
        assert results[precision]["accuracy"] == pytest.approx(exact["accuracy"], abs=0.1)


def language_model(kind):
    options = {"batch_size": 4, "evaluation_batch_size": 2, "regularization": NO_DROPOUT}
    if kind == "lstm":
        network = LSTMNetwork(11, 6, **options)
    else:
        network = darts_tf.RecurrentEvaluationNetwork(GENOTYPE, 11, 6, **options)
    model = darts_tf.LanguageModelTraining(network)
    model.compile(darts_tf.AveragedSGD(5.0))
    model.optimizer.start_averaging()
    return model


@pytest.mark.parametrize(
    ("kind", "precision"), [("derived", "mixed_float16"), ("lstm", "mixed_bfloat16")]
)
def test_language_models_train_evaluate_and_are_exported_near_float32(kind, precision, tmp_path):
    text = np.tile(np.arange(11, dtype=np.int32), 30)
    losses = {}
    for name in ("float32", precision):
        with policy(name):
            model = language_model(kind)
        windows = data.evaluation_windows(text, 4, 6)
        model.fit(windows, epochs=20, verbose=0, shuffle=False)
        windows = data.evaluation_windows(text, 2, 6)
        losses[name] = model.evaluate(windows, verbose=0, return_dict=True)["loss"]
        variables = (*model.network.variables, *model.optimizer.variables)
        assert not any(v.dtype in ("bfloat16", "float16") for v in variables)
    if kind == "derived":
        export_language_model(model.network, tmp_path / "out", ["<unk>", "<eos>", *"abcdefghi"])
    assert losses["float32"] < 2.3  # from log 11 = 2.40
    assert losses[precision] == pytest.approx(losses["float32"], abs=NEAR[precision])


def test_a_derived_cell_in_a_layer_of_keras_computes_in_half_precision():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    found = {}
    for precision in ("float32", *HALF):
        with policy(precision):
            layer = keras.layers.RNN(darts_tf.RecurrentDerivedCell(GENOTYPE, 4))
            found[precision] = tf.cast(layer(x), tf.float32).numpy()
    for precision in HALF:
        error = np.abs(found[precision] - found["float32"]).max()
        assert 0 < error < NEAR[precision] * np.abs(found["float32"]).max()
