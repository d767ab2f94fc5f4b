"""The virtual step is the step that the optimizer takes next, in closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.search.architecture_search import ArchitectureSearch


class Scalar(keras.Model):
    """w * alpha * x, of which every derivative is known."""

    def __init__(self):
        super().__init__()
        self.w = self.add_weight(name="w", shape=(1,), initializer="ones")
        self.alpha = self.add_weight(name="alpha", shape=(1,), initializer="ones", trainable=False)
        self.built = True

    architecture_parameters = property(lambda self: [self.alpha])
    network_parameters = property(lambda self: self.trainable_variables)

    def derive(self):
        return float(self.alpha.numpy()[0])

    def call(self, x, training=False):
        return x * tf.convert_to_tensor(self.w) * tf.convert_to_tensor(self.alpha)


def as_batch(x, y):
    return tf.constant([[x]], tf.float64), tf.constant([[y]], tf.float64)


@pytest.mark.parametrize(
    "momentum, decay", [(0.875, None), (0.875, 0.25), (0.0, 0.25), (0.0, None)]
)
def test_virtual_step_is_the_step_that_keras_sgd_takes_next(momentum, decay, precision):
    # All rates are exact in float32, in which Keras keeps them.
    (x, y), (x_val, y_val), alpha_rate = (1.5, 0.5), (0.8, -1.0), 0.0625
    search = ArchitectureSearch(Scalar(), order="second_exact")
    search.compile(
        keras.optimizers.SGD(0.125, momentum, weight_decay=decay),
        keras.optimizers.SGD(alpha_rate),
        loss="mse",
    )
    w, a, velocity, decay = 1.0, 1.0, 0.0, decay or 0.0
    for rate in (0.125, 0.125, 0.03125, 0.25):  # the velocity holds rates of the past
        search.optimizer.learning_rate = rate
        g = 2 * (w * a * x - y) * a * x
        w_prime = w - rate * decay * w + momentum * velocity - rate * g
        slope = -rate * (2 * x * (2 * w * a * x - y))  # d w' / d alpha
        g_alpha = 2 * (w_prime * a * x_val - y_val) * x_val * (w_prime + a * slope)
        a -= alpha_rate * g_alpha
        g = 2 * (w * a * x - y) * a * x
        velocity = momentum * velocity - rate * g
        w = w - rate * decay * w + velocity
        search.train_step((as_batch(x, y), as_batch(x_val, y_val)))
        np.testing.assert_allclose(search.supernet.alpha.numpy()[0], a, rtol=1e-9)
        np.testing.assert_allclose(search.supernet.w.numpy()[0], w, rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_learning_rate_of_zero_gives_the_first_order(momentum, precision):
    (x, y), (x_val, y_val) = (1.5, 0.5), (0.8, -1.0)
    search = ArchitectureSearch(Scalar(), order="second_exact")
    search.compile(keras.optimizers.SGD(0.0, momentum), keras.optimizers.SGD(0.0625), loss="mse")
    search.train_step((as_batch(x, y), as_batch(x_val, y_val)))
    expected = 1 - 0.0625 * 2 * (x_val - y_val) * x_val
    np.testing.assert_allclose(search.supernet.alpha.numpy()[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.125),
        lambda: keras.optimizers.SGD(0.125, momentum=0.9, nesterov=True),
    ],
    ids=["Adam", "Nesterov"],
)
def test_virtual_step_of_another_optimizer_is_plain_gradient_descent(optimizer, precision):
    (x, y), (x_val, y_val), alpha_rate = (1.5, 0.5), (0.8, -1.0), 0.0625
    search = ArchitectureSearch(Scalar(), order="second_exact")
    search.compile(optimizer(), keras.optimizers.SGD(alpha_rate), loss="mse")
    for _ in range(2):
        w, a = (float(v.numpy()[0]) for v in (search.supernet.w, search.supernet.alpha))
        w_prime = w - 0.125 * 2 * (w * a * x - y) * a * x
        slope = -0.125 * (2 * x * (2 * w * a * x - y))
        g_alpha = 2 * (w_prime * a * x_val - y_val) * x_val * (w_prime + a * slope)
        search.train_step((as_batch(x, y), as_batch(x_val, y_val)))
        expected = a - alpha_rate * g_alpha
        np.testing.assert_allclose(search.supernet.alpha.numpy()[0], expected, rtol=1e-9)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.125, momentum=0.5, global_clipnorm=0.25),
        lambda: keras.optimizers.Adam(0.125, global_clipnorm=0.25),
    ],
    ids=["SGD", "Adam"],
)
def test_virtual_step_clips_as_keras_does_where_asked_for(optimizer, clip, precision):
    (x, y), (x_val, y_val), alpha_rate = (1.5, 0.5), (0.8, -1.0), 0.0625
    search = ArchitectureSearch(Scalar(), order="second_exact", clip_virtual_step=clip)
    search.compile(optimizer(), keras.optimizers.SGD(alpha_rate), loss="mse")
    g = 2 * (x - y) * x  # at w = alpha = 1
    c = min(1, 0.25 / abs(g)) if clip else 1.0
    assert not clip or c < 0.1
    w_prime = 1 - 0.125 * c * g
    slope = -0.125 * c * (2 * x * (2 * x - y))  # c is a constant
    g_alpha = 2 * (w_prime * x_val - y_val) * x_val * (w_prime + slope)
    search.train_step((as_batch(x, y), as_batch(x_val, y_val)))
    np.testing.assert_allclose(
        search.supernet.alpha.numpy()[0], 1 - alpha_rate * g_alpha, rtol=1e-9
    )


def test_virtual_step_leaves_out_the_decay_that_keras_leaves_out(precision):
    (x, y), (x_val, y_val) = (1.5, 0.5), (0.8, -1.0)
    search = ArchitectureSearch(Scalar(), order="second_exact")
    optimizer = keras.optimizers.SGD(0.125, weight_decay=0.25)
    optimizer.exclude_from_weight_decay(var_names=["w"])
    search.compile(optimizer, keras.optimizers.SGD(0.0625), loss="mse")
    w_prime = 1 - 0.125 * 2 * (x - y) * x
    slope = -0.125 * (2 * x * (2 * x - y))
    g_alpha = 2 * (w_prime * x_val - y_val) * x_val * (w_prime + slope)
    search.train_step((as_batch(x, y), as_batch(x_val, y_val)))
    np.testing.assert_allclose(search.supernet.alpha.numpy()[0], 1 - 0.0625 * g_alpha, rtol=1e-9)


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "gradient_accumulation_steps"])
def test_options_that_a_virtual_step_cannot_follow_are_refused(option):
    optimizer = keras.optimizers.SGD(0.1, **{option: 2})
    search = ArchitectureSearch(Scalar(), order="second_fd", clip_virtual_step=True)
    with pytest.raises(InputError, match=f"{option}=2"):
        search.compile(optimizer, keras.optimizers.SGD(0.1), loss="mse")
    # Without a virtual step they are Keras' own.
    ArchitectureSearch(Scalar(), order="first").compile(
        optimizer, keras.optimizers.SGD(0.1), loss="mse"
    )


def test_weights_of_losses_are_refused():
    search = ArchitectureSearch(Scalar(), order="first")
    with pytest.raises(InputError, match="loss_weights needs a model of several losses"):
        search.compile(
            keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1), "mse", loss_weights=[2.0]
        )
