"""StopOnNotFinite: what was first, when, what to change; and that nothing bad is ever saved."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError
from darts_tf.genotype import RecurrentGenotype
from darts_tf.losses import token_cross_entropy
from darts_tf.networks.language import RecurrentEvaluationNetwork, RecurrentSupernet
from darts_tf.networks.language_model import Regularization
from darts_tf.training import loop
from darts_tf.training.averaged_sgd import AveragedSGD
from darts_tf.training.checkpoints import Saving
from darts_tf.training.guards import NotFinite, StopOnNotFinite
from darts_tf.training.language import LanguageModelTraining
from tests.training_callbacks_test import line_model, zeros
from tests.training_evaluation_test import GENOTYPE

STEPS, BATCH, WINDOW = 7, 4, 3
BAD_LABEL = 9


class Supernet(keras.Model):
    """Small, and with a weight and an alpha whose derivative is NaN where they are 0."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = keras.layers.Dense(3), keras.layers.Dense(2)
        one = {"shape": (1,), "initializer": "ones"}
        self.root = self.add_weight(name="root", **one)
        self.alphas = [
            self.add_weight(name="alphas_mix", shape=(1, 2), initializer="ones", trainable=False),
            self.add_weight(name="alphas_root", trainable=False, **one),
        ]
        self(np.zeros((1, 4)))

    architecture_parameters = property(lambda self: self.alphas)
    network_parameters = property(lambda self: self.trainable_variables)

    def derive(self):
        return "a genotype"

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 2)

    def call(self, x, training=False):
        h = self.inner(x)
        mix = tf.nn.softmax(tf.convert_to_tensor(self.alphas[0]))[0]
        mixed = self.outer(mix[0] * tf.tanh(h) + mix[1] * tf.nn.softplus(h))
        # To one of the outputs: what is added to both changes no loss.
        one = tf.constant([1.0, 0.0])
        return mixed + one * tf.sqrt(tf.abs(self.root)) * tf.sqrt(tf.abs(self.alphas[1]))


def loss(y, outputs):
    """Cross-entropy, NaN for one label."""
    losses = keras.losses.sparse_categorical_crossentropy(y % 2, outputs, from_logits=True)
    return tf.where(tf.reshape(y, [-1]) == BAD_LABEL, np.float32(np.nan), losses)


def search(order):
    model = darts_tf.ArchitectureSearch(Supernet(), order)
    model.compile(darts_tf.SGD(0.1), darts_tf.Adam(0.01), loss)
    return model


def training():
    network = darts_tf.EvaluationNetwork(GENOTYPE, 3, 2, 1, image_shape=(8, 8, 1))
    model = darts_tf.ArchitectureEvaluation(network)
    model.compile(darts_tf.SGD(0.1), loss)
    return model


def text_search():
    supernet = RecurrentSupernet(6, 3, BATCH, BATCH, 1, regularization=PLAIN)
    model = darts_tf.ArchitectureSearch(supernet, "second_exact")
    model.compile(darts_tf.SGD(0.1), darts_tf.Adam(0.01), token_cross_entropy)
    return model


def text_training():
    network = RecurrentEvaluationNetwork(
        RecurrentGenotype([("tanh", 0)], [1]), 6, 3, BATCH, BATCH, PLAIN
    )
    model = LanguageModelTraining(network)
    model.compile(AveragedSGD(0.5, 0.0, None))
    return model


PLAIN = Regularization(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
MODELS = {
    "first": lambda: search("first"),
    "second_fd": lambda: search("second_fd"),
    "second_exact": lambda: search("second_exact"),
    "training": training,
    "text_search": text_search,
    "text_training": text_training,
}
SHAPES = {"training": (8, 8, 1), "text_search": None, "text_training": None}


class Models:
    """The models by name, made once, each with its state at the beginning."""

    def __init__(self):
        self.made = {}

    def __call__(self, name):
        if name not in self.made:
            keras.utils.set_random_seed(0)
            new = MODELS[name]()
            state = [*new.variables, *new.optimizer.variables]
            state += getattr(new, "arch_optimizer", types.SimpleNamespace(variables=[])).variables
            values = [np.copy(keras.ops.convert_to_numpy(v)) for v in state]
            self.made[name] = new, list(zip(state, values, strict=True))
        found, state = self.made[name]
        for variable, value in state:
            variable.assign(value)
        return found


@pytest.fixture(scope="module")
def models():
    """One of each for all tests."""
    return Models()


def batches(name, damage=None):
    """An epoch for a model: arrays that `damage` may change, (steps, batch, ...) each."""
    random = np.random.default_rng(0)
    shape = SHAPES.get(name, (4,))

    def half():
        if shape is None:
            text = random.integers(0, 6, (STEPS, BATCH, 4)).astype(np.int32)
            return text[..., :-1].copy(), text[..., 1:].copy()
        x = random.normal(size=(STEPS, BATCH, *shape)).astype(np.float32)
        return x, random.integers(0, 2, (STEPS, BATCH)).astype(np.int32)

    train, validation = half(), half()
    if damage:
        damage(train, validation)
    both = (train, validation) if "train" not in name else train
    return tf.data.Dataset.from_tensor_slices(both)


class At(keras.callbacks.Callback):
    """Does something before a step, counted from 1; counts the steps that were done."""

    def __init__(self, step=0, action=None):
        super().__init__()
        self.step, self.action, self.done = step, action, 0

    def on_train_batch_begin(self, batch, logs=None):
        if batch + 1 == self.step and self.action:
            self.action(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self.done = batch + 1


def stopped(model, name, damage=None, at=None, epochs=1):
    """The words with which a training ends; it must end within the window."""
    at = at or At()
    with pytest.raises(NotFinite) as raised:
        model.fit(
            batches(name, damage),
            epochs=epochs,
            verbose=0,
            callbacks=[at, StopOnNotFinite(window=WINDOW)],
        )
    words = str(raised.value)
    assert "It is not saved: what was saved before it is kept." in words and "\n" not in words
    return words, at.done


def put(half, part, step, example, value):
    """Damage: a number of an example of a step (counted from 1) of one half."""

    def damage(*halves):
        array = halves[half][part]
        array[step - 1, example].flat[-1:] = value
        if array.ndim == 2:
            array[step - 1, example] = value

    return damage


@pytest.mark.parametrize("name", ["first", "second_exact", "training"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_bad_example_is_named(name, value, models):
    words, done = stopped(models(name), name, put(0, 0, 4, 2, value))
    assert done == 6
    assert words.startswith(
        "The inputs of the training batch became NaN or infinite, before anything else, in step 4 "
        "of epoch 1. It is example 2 of the step's batch, counted from 0; in batches of 4, "
        "example 14 of the epoch."
    )
    assert words.endswith("Repair that example, or leave it out.")


def test_a_bad_validation_example_is_named(models):
    words, done = stopped(models("second_exact"), "second_exact", put(1, 0, 5, 3, np.inf))
    assert done == 6
    assert words.startswith("The inputs of the validation batch became NaN or infinite, before")
    assert "in step 5 of epoch 1. It is example 3 of the step's batch" in words


@pytest.mark.parametrize(
    ("name", "half", "what"),
    [
        ("first", 0, "loss of the training batch"),
        ("second_fd", 0, "loss of the training batch"),
        ("second_exact", 0, "loss of the training batch"),
        ("first", 1, "loss of the validation batch"),
        ("second_exact", 1, "loss of the validation batch"),
        ("training", 0, "loss of the training batch"),
    ],
)
def test_a_bad_loss_is_named(name, half, what, models):
    words, done = stopped(models(name), name, put(half, 1, 2, 1, BAD_LABEL))
    assert done == 3
    assert words.startswith(f"The {what} became NaN or infinite, before anything else, in step 2 ")
    advice = "virtual step" if half and name != "first" else "ower the learning rate of the weights"
    assert advice in words
    assert ("It is example 1 of the step's batch" in words) == (name == "training")


def zero(variable):
    variable.assign(np.zeros(variable.shape))


@pytest.mark.parametrize("name", ["first", "second_exact"])
def test_a_bad_gradient_is_named_with_its_variable(name, models):
    at = At(5, lambda model: zero(model.supernet.root))
    words, done = stopped(models(name), name, at=at)
    what = "gradient of the weights" if name == "first" else "loss of the validation batch"
    assert words.startswith(f"The {what}") and "in step 5 of epoch 1." in words and done == 6
    if name == "first":
        assert f"(first in {models(name).supernet.root.path})" in words
        assert "division, root or logarithm of 0" in words
    at = At(3, lambda model: zero(model.supernet.alphas[1]))
    words, done = stopped(models(name), name, at=at)
    assert words.startswith("The gradient of the alphas (first in ") and done == 3
    assert models(name).supernet.alphas[1].path in words and "in step 3 of epoch 1." in words


def spoil(variable, value):
    array = np.copy(keras.ops.convert_to_numpy(variable))
    array.flat[-1] = value
    variable.assign(array)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_bad_weight_is_named(name, models):
    def action(model):
        spoil(model.trainable_variables[-1], np.nan)

    words, done = stopped(models(name), name, at=At(4, action))
    assert done == 6
    path = models(name).trainable_variables[-1].path
    assert words.startswith(f"The weights with which the step began (first in {path}) became NaN")
    assert "in step 4 of epoch 1." in words


@pytest.mark.parametrize("name", ["first", "second_exact", "text_search"])
def test_bad_alphas_are_named(name, models):
    def action(model):
        spoil(model.supernet.architecture_parameters[0], np.inf)

    words, done = stopped(models(name), name, at=At(2, action))
    path = models(name).supernet.architecture_parameters[0].path
    assert words.startswith(f"The alphas with which the step began (first in {path}) became NaN")
    assert done == 3 and "in step 2 of epoch 1." in words


@pytest.mark.parametrize("name", list(MODELS))
def test_a_step_that_is_too_large_is_named(name, models):
    words, done = stopped(models(name), name, at=At(1, lambda model: rate(model.optimizer)))
    if name in ("first", "training", "text_training"):
        assert words.startswith("The weights (first in ") and "lower the learning rate" in words
    else:  # the virtual step is as long
        assert words.startswith("The loss of the validation batch") and "virtual step" in words
    assert done == 3 and "in step 1 of epoch 1." in words
    if name in ("first", "text_search"):
        at = At(1, lambda model: rate(model.arch_optimizer))
        words, _ = stopped(models(name), name, at=at)
        assert words.startswith("The alphas (first in ")
        assert "Lower the learning rate of the alphas" in words


def rate(optimizer):
    optimizer.learning_rate = np.inf


def test_what_is_bad_in_the_last_steps_of_an_epoch_is_seen_at_its_end(models):
    words, done = stopped(models("first"), "first", put(0, 0, STEPS, 0, np.nan), epochs=2)
    assert done == STEPS and f"in step {STEPS} of epoch 1. It is example 0 of" in words


def test_a_good_training_is_left_alone(models):
    for name in MODELS:
        history = models(name).fit(
            batches(name), epochs=2, verbose=0, callbacks=[StopOnNotFinite(window=WINDOW)]
        )
        assert np.isfinite(history.history["loss"]).all()


def test_a_training_that_begins_badly_does_no_step(models):
    model, at = models("training"), At()
    variable = model.trainable_variables[0]
    spoil(variable, np.nan)
    with pytest.raises(NotFinite, match=f"^{variable.path} is NaN or infinite before the first st"):
        model.fit(batches("training"), verbose=0, callbacks=[at, StopOnNotFinite()])
    assert at.done == 0


# ------------------------------------------------------------------------------- nothing is saved


@pytest.mark.parametrize("minutes", [0.0, 1000.0])
def test_a_bad_state_is_never_saved(minutes, models, tmp_path):
    model = models("second_exact")
    good = batches("second_exact")

    def run(data, epochs):
        return loop.Run(
            title="search",
            folder=tmp_path,
            epochs=epochs,
            batches=loop.Batches(lambda epoch: STEPS, lambda epoch, step: data.skip(step), False),
            validation_data=None,
            schedule=lambda epoch, _=None: 0.1,
            saving=Saving(minutes=minutes, keep=2),
        )

    loop.train(model, run(good, 1), [model.optimizer, model.arch_optimizer])
    bad = batches("second_exact", put(0, 0, 5, 2, np.nan))
    with pytest.raises(NotFinite, match="inputs of the training batch .* in step 5 of epoch 2"):
        loop.train(model, run(bad, 2), [model.optimizer, model.arch_optimizer])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    newest = "000001-00000004" if minutes == 0 else "000001-00000000"
    assert names[-1] == f"{newest}.checkpoint"
    # The same run on data that was repaired resumes from there.
    again = models("second_exact")
    at = loop.train(again, run(good, 2), [again.optimizer, again.arch_optimizer])
    assert at == ((1, 4) if minutes == 0 else (1, 0))
    assert all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in again.variables)


# ---------------------------------------------------------------------------------- other models


def test_of_other_models_the_metrics_are_looked_at_after_every_step():
    x, y = zeros(8)
    y[5] = np.nan  # with two examples a step this is the third step
    at = At()
    with pytest.raises(
        NotFinite, match=r"^loss became nan in epoch 1, between step 2 and step 3\."
    ):
        line_model().fit(
            x, y, batch_size=2, shuffle=False, verbose=0, callbacks=[at, StopOnNotFinite()]
        )
    assert at.done == 3


def test_a_metric_of_the_epoch_that_is_not_finite_ends_the_run():
    x, y = zeros(4)
    validation = x, np.full_like(y, np.inf)
    with pytest.raises(NotFinite, match="val_loss became inf .* between step 0 and its end. It is"):
        line_model().fit(x, y, validation_data=validation, verbose=0, callbacks=[StopOnNotFinite()])


def test_not_finite_is_an_error_that_the_user_can_mend():
    assert issubclass(NotFinite, InputError)
    with pytest.raises(InputError, match="window must be a whole number of 1 or more. Received: 0"):
        StopOnNotFinite(0)
