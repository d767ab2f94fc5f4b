"""Loss scaling: steps that overflow move nothing, small gradients arrive, real faults are named."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError
from darts_tf.loss_scale import INITIAL
from darts_tf.training import loop
from darts_tf.training.checkpoints import Saving
from darts_tf.training.guards import NotFinite, StopOnNotFinite
from tests.replicas_results import results_on_replicas

LARGEST = 65504
"""Of float16."""


@pytest.fixture(autouse=True)
def float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@keras.saving.register_keras_serializable(package="test")
class Linear(keras.Model):
    """w * x * (1 + alpha) in half precision: its gradients are known, and overflow as S x does."""

    def __init__(self, name=None):
        super().__init__(name=name)
        self.w = self.add_weight(name="w", shape=(), initializer="ones", autocast=False)
        self.alpha = self.add_weight(
            name="alpha", shape=(), initializer="zeros", trainable=False, autocast=False
        )
        self.seen = self.add_weight(
            name="seen", shape=(), initializer="zeros", trainable=False, autocast=False
        )
        self.built = True

    architecture_parameters = property(lambda self: [self.alpha])
    network_parameters = property(lambda self: self.trainable_variables)

    def derive(self):
        return None

    def call(self, x, training=False):
        if training:
            self.seen.assign(tf.reduce_sum(tf.cast(x, tf.float32)))
        w, alpha, x = (tf.cast(t, tf.float16) for t in (self.w, self.alpha, x))
        return tf.cast(w * x * (1 + alpha), tf.float32)

    def forward(self, x, training=False):
        return types.SimpleNamespace(logits=self.call(x, training), auxiliary_logits=None)

    def compute_output_shape(self, input_shape):
        return input_shape


def outputs(y, logits):
    """The loss of each example is its output."""
    return logits[:, 0]


def training(optimizer=None, loss=outputs, **options):
    model = darts_tf.ArchitectureEvaluation(Linear())
    model.compile(optimizer or keras.optimizers.SGD(0.01, momentum=0.9), loss, **options)
    return model


def searching(order):
    model = darts_tf.ArchitectureSearch(Linear(), order)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), keras.optimizers.SGD(0.01, momentum=0.9), outputs
    )
    return model


def batch(x):
    return tf.constant([[x]], tf.float32), tf.constant([[0.0]])


def state(model):
    optimizers = [model.optimizer, *([model.arch_optimizer] if hasattr(model, "order") else [])]
    network = getattr(model, "supernet", None) or model.network
    return [v.numpy() for owner in (network, *optimizers) for v in owner.variables]


def test_a_step_that_overflows_moves_nothing_and_halves_the_scale():
    model = training()
    start = state(model)
    step = tf.function(lambda x: model.train_step(batch(x)), autograph=False)
    for k in (1, 2):  # S x = 2^17, 2^16 are beyond float16
        step(4.0)
        assert float(model.loss_scale.scale.numpy()) == INITIAL / 2**k
        for value, before in zip(state(model), start, strict=True):
            np.testing.assert_array_equal(value, before)
    assert INITIAL / 2 * 4 > LARGEST
    assert model.first_not_finite.read() is None
    step(4.0)  # dL/dw = x
    assert float(model.network.w.numpy()) == pytest.approx(1 - 0.01 * 4)
    assert float(model.loss_scale.scale.numpy()) == INITIAL / 4
    assert int(model.optimizer.iterations.numpy()) == 1


@pytest.mark.parametrize("order", ["first", "second_fd", "second_exact"])
def test_a_step_of_the_search_that_overflows_moves_neither_weights_nor_alphas(order):
    model = searching(order)
    start = state(model)
    step = tf.function(lambda x: model.train_step((batch(x), batch(x))), autograph=False)
    for _ in range(2):
        results = step(4.0)
        for value, before in zip(state(model), start, strict=True):
            np.testing.assert_array_equal(value, before)
        assert np.isfinite([float(v) for v in results.values()]).all()
    assert model.first_not_finite.read() is None
    step(4.0)
    # L = w x (1 + alpha), w' = w - xi x (1 + alpha): dL_val/dalpha = w' x - xi x (1 + alpha) x.
    xi = 0.01
    wanted = 4.0 if order == "first" else (1 - xi * 4) * 4 - xi * 4 * 4
    assert float(model.supernet.alpha.numpy()) == pytest.approx(-0.01 * wanted, rel=2e-3)
    alpha = float(model.supernet.alpha.numpy())
    assert float(model.supernet.w.numpy()) == pytest.approx(1 - 0.01 * 4 * (1 + alpha), rel=1e-3)


def test_gradients_too_small_for_float16_arrive():
    tiny = 2.0**-26  # half of it rounds to 0
    assert np.float16(tiny) == 0
    model = training(loss=lambda y, logits: tiny * logits[:, 0])
    model.train_step(batch(1.0))
    assert float(model.optimizer.momentums[0].numpy()) == pytest.approx(-0.01 * tiny)


def test_the_scale_is_doubled_after_enough_good_steps_as_keras_does():
    def scaled():
        return keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.0), initial_scale=4.0, dynamic_growth_steps=2
        )

    model, reference, w = training(scaled()), scaled(), keras.Variable(1.0)
    reference.build([w])
    for x in (1.0, 1.0, 1.0, 1e5 / 8, 1.0, 1.0):
        model.train_step(batch(x))
        reference.apply([tf.constant(np.inf if reference.dynamic_scale * x > LARGEST else x)], [w])
        assert float(model.loss_scale.scale.numpy()) == float(reference.dynamic_scale.numpy())
    assert isinstance(model.optimizer, keras.optimizers.SGD)


def test_what_no_scale_mends_is_named():
    model = training(loss=lambda y, logits: tf.sqrt(logits[:, 0]))
    model.loss_scale.scale.assign(2.0)
    model.train_step(batch(0.0))  # the derivative of the root is infinite at 0
    assert model.first_not_finite.read() is None
    model.train_step(batch(0.0))
    assert model.first_not_finite.read().name == "gradient of the weights"
    data = tf.data.Dataset.from_tensors(batch(np.nan))
    with pytest.raises(NotFinite, match="inputs of the training batch .* in step 1 of epoch 1"):
        training().fit(data, verbose=0, callbacks=[StopOnNotFinite()], shuffle=False)


def test_without_automatic_scaling_nothing_is_scaled_and_a_fixed_factor_is_refused():
    model = training(auto_scale_loss=False)
    model.train_step(batch(4.0))
    assert float(model.network.w.numpy()) == pytest.approx(1 - 0.01 * 4)
    assert float(model.loss_scale.scale.numpy()) == INITIAL
    with pytest.raises(InputError, match="loss_scale_factor is not supported.*LossScaleOptimizer"):
        training(keras.optimizers.SGD(0.1, loss_scale_factor=8.0))


def test_in_float32_and_bfloat16_there_is_no_scale():
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        model = training()
        assert model.loss_scale is None
        assert not any("loss_scale" in v.path for v in model.variables)


def test_a_run_that_goes_on_has_the_scale_that_it_had(tmp_path):
    x = np.full((6, 1), 4.0, np.float32)
    stream = tf.data.Dataset.from_tensor_slices((x, x)).batch(1).repeat()

    def run(folder, breaks_after=None):
        model = training()

        def strike(step, logs=None):
            if step == breaks_after:
                raise RuntimeError("the machine went down")

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=strike)
        folder.mkdir(exist_ok=True)
        settings = loop.Run(
            title="test",
            folder=folder,
            epochs=1,
            batches=loop.Batches.of_stream(6, stream.skip),
            validation_data=None,
            schedule=lambda epoch, _=None: 0.01,
            callbacks=lambda first_epoch: [callback],
            saving=Saving(minutes=0),
        )
        loop.train(model, settings, [model.optimizer])
        return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]

    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="went down"):
        run(tmp_path / "broken", breaks_after=1)  # after the first step, which overflowed
    for value, wanted in zip(run(tmp_path / "broken"), whole, strict=True):
        np.testing.assert_array_equal(value, wanted)


ON_REPLICAS = """
import keras
keras.config.set_dtype_policy("mixed_float16")
from tests import loss_scale_test as test
with strategy.scope():
    model = test.training()
# Only the example of the last replica overflows.
x = tf.constant([[1.0], [4.0]])
data = tf.data.Dataset.from_tensors((x, tf.zeros([2, 1]))).repeat(3)
found = []
for _ in range(3):
    model.fit(data.take(1), verbose=0, shuffle=False)
    found.append([float(model.loss_scale.scale.numpy()), float(model.network.w.numpy())])
np.savez(sys.argv[1], found=found)
"""


def test_a_step_that_overflows_on_one_replica_is_undone_on_all(tmp_path):
    found = results_on_replicas(ON_REPLICAS, 2, tmp_path)["found"]
    # Each replica's share is half of its own gradient: S 4 / 2 overflows at S = 2^15 only.
    np.testing.assert_allclose(
        found[:2], [[INITIAL / 2, 1], [INITIAL / 2, 1 - 0.01 * 2.5]], rtol=1e-3
    )
