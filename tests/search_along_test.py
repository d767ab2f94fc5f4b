"""The exact second order by dual numbers on a supernet of all primitives, against nested tapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.search import bilevel
from darts_tf.search.architecture_search import ArchitectureSearch

XI = 0.1


class Losses:
    """Two batches' losses of a tiny supernet, and weights and alphas to take them at."""

    def __init__(self, activation, num_cells=3, num_nodes=2):
        keras.utils.set_random_seed(0)
        supernet = darts_tf.Supernet(
            num_classes=3,
            init_channels=2,
            num_cells=num_cells,
            num_nodes=num_nodes,
            image_shape=(8, 8, 3),
            activation=activation,
        )
        search = ArchitectureSearch(supernet)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        search.compile(optimizer=darts_tf.SGD(0.1), arch_optimizer=darts_tf.Adam(0.01), loss=loss)
        random = np.random.default_rng(0)
        dtype = keras.config.floatx()
        self.train, self.validation = (
            search.loss_function(
                (
                    tf.constant(random.normal(size=(4, 8, 8, 3)), dtype),
                    tf.constant(random.integers(0, 3, 4)),
                    None,
                )
            )
            for _ in range(2)
        )
        weights = [np.ravel(v.value.numpy()) for v in supernet.network_parameters]
        self.w = np.concatenate(weights).astype(dtype)
        # Far from equal, so that every candidate's part can be told from the others'.
        self.alphas = [
            random.normal(size=v.shape).astype(dtype) for v in supernet.architecture_parameters
        ]
        self.v = random.normal(size=self.w.shape).astype(dtype)

    def second_exact(self, train):
        @tf.function(autograph=False)
        def graph(w, *alphas):
            step = bilevel.VirtualStep(tf.constant(XI, w.dtype))
            gradient = bilevel.second_exact(train, self.validation, w, list(alphas), step)
            return [*gradient.alphas, gradient.validation_loss]

        *alphas, value = graph(*map(tf.constant, (self.w, *self.alphas)))
        return np.concatenate([np.ravel(a) for a in alphas]), float(value)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_the_loss_along_a_direction_is_its_central_difference(activation, precision):
    losses = Losses(activation)
    alphas = [tf.constant(a) for a in losses.alphas]
    along, loss = (
        tf.function(f, autograph=False)
        for f in (losses.train.along, lambda w: losses.train(w, alphas))
    )
    slope = float(along(tf.constant(losses.w), alphas, tf.constant(losses.v)))
    plus, minus = (float(loss(tf.constant(losses.w + s * losses.v))) for s in (1e-7, -1e-7))
    assert abs(slope) > 1e-2
    assert abs(slope - (plus - minus) / 2e-7) < 1e-6 * abs(slope)


@pytest.mark.parametrize(
    "precision, activation, cells, nodes, tolerance",
    [
        # Nested tapes take long to trace: either both kinds of cells, or edges that share a node.
        ("float64", "relu", 3, 1, 1e-10),
        ("float64", "softplus", 1, 2, 1e-10),
        ("float32", "relu", 1, 2, 1e-4),
    ],
    indirect=["precision"],
)
def test_exact_second_order_along_is_that_of_nested_tapes(
    precision, activation, cells, nodes, tolerance
):
    losses = Losses(activation, cells, nodes)
    assert hasattr(losses.train, "along")
    along, value = losses.second_exact(losses.train)
    nested, nested_value = losses.second_exact(lambda w, alphas: losses.train(w, alphas))
    assert value == pytest.approx(nested_value, rel=tolerance)
    largest = np.abs(nested).max()
    assert largest > 1e-3
    np.testing.assert_allclose(along, nested, rtol=0, atol=tolerance * largest)
