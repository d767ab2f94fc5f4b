"""Recomputed cells, half precision, candidates that take no `Dual`: ways to compute a supernet."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.space import primitives

CANDIDATES = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")


def batches(dtype):
    random = np.random.default_rng(0)
    return tuple(
        (
            tf.constant(random.normal(size=(4, 8, 8, 3)), dtype),
            tf.constant(random.integers(0, 3, 4)),
        )
        for _ in range(2)
    )


def search_of(order, candidates=CANDIDATES, **settings):
    keras.utils.set_random_seed(1)
    supernet = darts_tf.Supernet(
        num_classes=3,
        init_channels=2,
        num_cells=2,
        num_nodes=1,
        image_shape=(8, 8, 3),
        primitives=candidates,
        **settings,
    )
    search = darts_tf.ArchitectureSearch(supernet, order=order)
    search.compile(
        optimizer=darts_tf.SGD(0.1),
        arch_optimizer=darts_tf.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return search


def after_two_steps(order, **settings):
    search = search_of(order, **settings)
    step = tf.function(search.train_step, autograph=False)
    for _ in range(2):
        step(batches(keras.config.floatx()))
    return [v.numpy() for v in search.supernet.variables]


@pytest.mark.parametrize("order", ["first", "second_exact"])
def test_recomputed_cells_give_the_same_weights_alphas_and_statistics(order, precision):
    kept, again = (after_two_steps(order, recompute=value) for value in (False, True))
    start = [v.numpy() for v in search_of(order).supernet.variables]
    assert len(kept) == len(again) == len(start)
    for a, b, before in zip(kept, again, start, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        assert np.any(a != before)  # weights, alphas and statistics: all have moved


def test_recomputation_is_a_setting_of_the_network():
    assert search_of("first", recompute=True).supernet.get_config()["recompute"] is True


@pytest.mark.parametrize("recompute", [False, True])
def test_bfloat16_comes_near_float32(recompute):
    single = search_of("first")
    expected = single.train_step(batches("float32"))["loss"]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        search = search_of("first", recompute=recompute)
        actual = tf.function(search.train_step, autograph=False)(batches("float32"))["loss"]
    finally:
        keras.config.set_dtype_policy(before)
    assert all(v.dtype == "float32" for v in search.supernet.network_parameters)
    np.testing.assert_allclose(actual, expected, rtol=0.1)


class Doubled(primitives.Primitive):
    """A user's own, written with stock operations: 2 x."""

    def apply(self, state, kernels, normalise, stride, search):
        return 2 * state.whole[:, ::stride, ::stride]


def test_the_exact_order_uses_nested_tapes_where_a_candidate_takes_no_dual(monkeypatch, precision):
    monkeypatch.setitem(primitives.PRIMITIVES, "doubled", Doubled())
    search = search_of("second_exact", ("doubled", "sep_conv_3x3"))
    train, validation = batches("float64")
    assert search.supernet.along is None
    assert not hasattr(search.loss_function((*train, None)), "along")
    # Two cells: the alphas' second-order part is there, and finite.
    results = tf.function(search.train_step, autograph=False)((train, validation))
    assert np.isfinite(results["arch_loss"])
