"""The checks of `verify`: they hold for right gradients and fail for every known wrong one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.bin import verify_cases
from darts_tf.errors import InputError
from darts_tf.search import bilevel, toy, verification, verification_step, verification_toy
from darts_tf.space import normalisation, pooling

SOURCE = np.random.default_rng(0)
B = SOURCE.normal(size=(6, 3))
ALPHAS = [tf.constant(SOURCE.normal(size=(3,)))]


def train_loss(w, alphas):
    return tf.reduce_sum(tf.tanh(w) * tf.linalg.matvec(B, alphas[0])) + tf.nn.l2_loss(w)


def validation_loss(w, alphas):
    return tf.reduce_sum(tf.sin(w)) + tf.reduce_sum(w[:3] * alphas[0])


def smooth_problem():
    w, buffer = (tf.constant(values) for values in np.random.default_rng(1).normal(size=(2, 6)))
    step = bilevel.VirtualStep(0.1, 0.9, buffer, 3e-4)
    return verification.Problem(train_loss, validation_loss, w, ALPHAS, step)


def failures(checks):
    return [check.name for check in checks if not check.passed]


def test_central_difference_of_a_quadratic_is_exact():
    direction = [tf.constant([1.0, 0.0, 2.0], tf.float64)]
    difference = verification.central_difference(
        lambda alphas: tf.reduce_sum(alphas[0] ** 2), ALPHAS, direction, 0.1
    )
    assert float(difference) == pytest.approx(float(tf.reduce_sum(2 * ALPHAS[0] * direction[0])))


def test_directions_have_length_one_over_all_alphas_together():
    alphas = [tf.zeros([2, 3], tf.float64), tf.zeros([4], tf.float64)]
    for direction in verification.directions(alphas, count=3):
        assert [d.shape for d in direction] == [a.shape for a in alphas]
        assert sum(float(tf.reduce_sum(d**2)) for d in direction) == pytest.approx(1)


def test_error_is_measured_against_the_part_in_question():
    """An error of 1 % of the whole is the whole of a second-order term that is 1 % of it."""
    known = [tf.constant([100.0, -100.0, 50.0], tf.float64)]
    rest = [tf.constant([1.0, 1.0, 0.5], tf.float64)]

    def objective(alphas):
        return tf.reduce_sum(alphas[0] * (known[0] + rest[0]))

    whole = verification.directional_error(known, objective, ALPHAS, 1e-3)
    part = verification.directional_error(known, objective, ALPHAS, 1e-3, known)
    assert whole < 0.03
    assert part > 0.3


def test_all_checks_hold_for_right_gradients():
    checks = list(verification.gradient_checks(smooth_problem(), smooth=True))
    assert len(checks) == 8
    assert failures(checks) == []


def test_where_kinks_are_possible_convergence_is_information():
    checks = list(verification.gradient_checks(smooth_problem(), smooth=False))
    (cosine,) = [check for check in checks if check.bound is None]
    assert cosine.figure == pytest.approx(1, abs=1e-3)
    assert failures(checks) == []


def misplaced_parenthesis(train_loss, validation_loss, w, alphas, step, reduce=None, length=0.01):
    """(p - n) / 2 * R instead of (p - n) / (2 R), a known bug of another implementation."""
    right = RIGHT_FD(train_loss, validation_loss, w, alphas, step, length=length)
    direct = without_product(train_loss, validation_loss, w, alphas, step).alphas
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = validation_loss(w, alphas)
    r = length / tf.norm(tape.gradient(value, w))
    wrong = [d + (g - d) * r * r for g, d in zip(right.alphas, direct, strict=True)]
    return bilevel.ArchitectureGradient(wrong, right.validation_loss)


def without_momentum(train_loss, validation_loss, w, alphas, step, reduce=None):
    step = bilevel.VirtualStep(step.xi, weight_decay=step.weight_decay)
    return RIGHT_EXACT(train_loss, validation_loss, w, alphas, step)


def without_product(train_loss, validation_loss, w, alphas, step, reduce=None):
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = train_loss(w, alphas)
    return bilevel.first(validation_loss, step(w, tape.gradient(value, w)), alphas)


RIGHT_FD, RIGHT_EXACT = bilevel.second_fd, bilevel.second_exact

WRONG = {
    "misplaced parenthesis": ("second_fd", misplaced_parenthesis, "second_fd: central"),
    "momentum left out": ("second_exact", without_momentum, "second_exact: central"),
    "product left out": ("second_exact", without_product, "second_exact: central"),
}


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(("name", "wrong", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_gradient_fails(monkeypatch, name, wrong, expected, smooth):
    monkeypatch.setattr(bilevel, name, wrong)
    failed = failures(verification.gradient_checks(smooth_problem(), smooth))
    assert any(check.startswith(expected) for check in failed)


def test_wrong_virtual_step_fails(monkeypatch):
    """The objective is written out in the check, so that both cannot be wrong together."""

    def without_decay(self, w, g):
        return w - self.xi * (self.momentum * self.buffer + g)

    monkeypatch.setattr(bilevel.VirtualStep, "__call__", without_decay)
    assert failures(verification.gradient_checks(smooth_problem(), smooth=True))


def test_toy_checks_hold_for_right_and_fail_for_wrong_gradients(monkeypatch):
    assert failures(verification_toy.toy_checks()) == []
    monkeypatch.setattr(bilevel, "second_exact", without_product)
    toy._step.cache_clear()
    failed = failures(verification_toy.toy_checks())
    toy._step.cache_clear()
    assert "second_exact: closed form" in failed
    assert "second_exact: fixed point 1 of xi = 0.5" in failed
    assert not any(name.startswith("second_fd") for name in failed)


def test_check_of_nan_fails_and_information_passes():
    assert not verification.Check("", float("nan"), 1.0).passed
    assert verification.Check("", float("nan"), None).passed


def test_second_derivatives_of_pooling_are_right():
    names = ("max_pool_3x3", "avg_pool_3x3")
    assert failures(verify_cases.primitives(names)) == []


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="only the CPU's is wrong")
def test_stock_max_pooling_fails(monkeypatch):
    def stock(x, window):
        return tf.raw_ops.MaxPool(input=x, **window)

    monkeypatch.setattr(pooling, "_max_pool", stock)
    failed = failures(verify_cases.primitives(("max_pool_3x3",)))
    assert failed == ["max_pool_3x3, stride 1"]


def test_batch_norm_with_stock_moments_fails(monkeypatch):
    def stock(x):
        return *tf.nn.moments(x, [0, 1, 2]), tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)

    monkeypatch.setattr(normalisation, "_moments", stock)
    failed = failures(verify_cases.primitives(("dil_conv_3x3",)))
    assert failed == ["dil_conv_3x3, stride 1", "dil_conv_3x3, stride 2"]


class Mixture(keras.Model):
    """softmax(alpha)-weighted activations between two matrices; keeps a running mean."""

    def __init__(self, detached=False):
        super().__init__(name="mixture")
        self.matrices = [self.add_weight(shape=shape) for shape in ((4, 5), (5, 3))]
        if detached:
            self.detached = self.add_weight(shape=(2,), name="detached")
        self.alphas = self.add_weight(shape=(3,), initializer="zeros", trainable=False)
        self.mean = self.add_weight(shape=(4,), initializer="zeros", trainable=False, name="mean")
        self.built = True

    architecture_parameters = property(lambda self: [self.alphas])
    network_parameters = property(lambda self: self.trainable_variables)

    def derive(self):
        return None

    def call(self, x, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(x, 0))
        h = x @ self.matrices[0]
        candidates = [tf.tanh(h), tf.nn.softplus(h), tf.sin(h)]
        weights = tf.unstack(tf.nn.softmax(tf.convert_to_tensor(self.alphas)))
        return (
            tf.add_n([m * y for m, y in zip(weights, candidates, strict=True)]) @ self.matrices[1]
        )


def batches():
    source = np.random.default_rng(2)
    return [(source.normal(size=(6, 4)), source.integers(3, size=6)) for _ in range(2)]


def test_step_of_a_right_search_holds(precision):
    search = verify_cases.make_search(Mixture())
    before = search.supernet.mean.numpy()
    checks = list(verification_step.step_checks(search, *batches()))
    assert len(checks) == 4
    assert failures(checks) == []
    assert not np.array_equal(search.supernet.mean.numpy(), before)


def test_weight_without_gradient_is_named(precision):
    search = verify_cases.make_search(Mixture(detached=True))
    failed = [c for c in verification_step.step_checks(search, *batches()) if not c.passed]
    assert [check.figure for check in failed] == [1]
    assert failed[0].note.endswith("detached")


def test_statistics_that_other_passes_touch_fail(precision):
    class Careless(darts_tf.ArchitectureSearch):
        def train_step(self, data):
            self.supernet(data[1][0], training=True)
            return super().train_step(data)

    search = Careless(Mixture(), order="first")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizers = darts_tf.SGD(0.1, l2=0.0), darts_tf.Adam(l2=0.0)
    search.compile(*optimizers, loss=loss)
    failed = [c for c in verification_step.step_checks(search, *batches()) if not c.passed]
    assert [check.name for check in failed] == [
        "running statistics: those of the weight step alone"
    ]
    assert failed[0].note.endswith("mean")


def test_problem_of_a_search_passes_all_checks(precision):
    problem = verification.problem_of(verify_cases.make_search(Mixture()), *batches())
    assert problem.w.shape == (4 * 5 + 5 * 3,)
    assert failures(verification.gradient_checks(problem, smooth=True)) == []


@pytest.mark.parametrize("precision", ["float32"], indirect=True)
def test_single_precision_is_refused_with_the_remedy(precision):
    search = verify_cases.make_search(Mixture())
    with pytest.raises(InputError, match="weights must be float64.*Received: float32.*set_dtype"):
        verification.problem_of(search, *batches())


def test_single_precision_loss_is_refused(precision):
    def loss(y, logits):
        return keras.losses.sparse_categorical_crossentropy(y, tf.cast(logits, "float32"), True)

    problem = verification.problem_of(verify_cases.make_search(Mixture(), loss), *batches())
    with pytest.raises(InputError, match="loss must be float64"):
        list(verification.gradient_checks(problem, smooth=True))
