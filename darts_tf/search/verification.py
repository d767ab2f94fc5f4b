"""Numeric checks of the architecture gradients against definitions without second derivatives.

Everything is computed inside `tf.function`: two stock operations (stride-1 max pooling on a CPU,
`tf.nn.moments`) have wrong second derivatives, the first of them in graphs only. Central
differences need float64.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.search import bilevel
from darts_tf.search.architecture_search import ArchitectureSearch

Objective = Callable[[bilevel.Alphas], tf.Tensor]

XI, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 3e-4
"""The virtual step of the checks; xi is large, so that the second-order term shows."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One figure and its bound.

    Attributes:
        name: What was compared.
        figure: An error, or a count of faults.
        bound: The largest figure that is accepted; None where the figure is for information only.
        note: What a failure points at, such as the variables concerned.
    """

    name: str
    figure: float
    bound: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is within its bound; NaN is not."""
        return self.bound is None or self.figure <= self.bound


@dataclasses.dataclass(frozen=True)
class Problem:
    """A bilevel problem at one point.

    Attributes:
        train_loss, validation_loss: L_train and L_val, functions (w, alphas) -> scalar.
        w: The weights, one vector.
        alphas: The architecture parameters.
        step: The virtual step.
    """

    train_loss: bilevel.Loss
    validation_loss: bilevel.Loss
    w: tf.Tensor
    alphas: bilevel.Alphas
    step: bilevel.VirtualStep


def problem_of(search: ArchitectureSearch, train, validation, seed: int = 0) -> Problem:
    """The problem of a compiled search at its present weights and alphas.

    Args:
        search: The search.
        train, validation: Batches (x, y).
        seed: Of the momentum buffer, which is random so that the virtual step is no special case.

    Raises:
        InputError: The weights or the alphas are not float64.
    """
    train_loss, validation_loss = (
        search.loss_function((*map(tf.convert_to_tensor, batch), None))
        for batch in (train, validation)
    )
    weights, architecture = (
        [tf.convert_to_tensor(variable) for variable in variables]
        for variables in (
            search.supernet.network_parameters,
            search.supernet.architecture_parameters,
        )
    )
    _require_float64("weights", {tensor.dtype.name for tensor in weights})
    _require_float64("architecture parameters", {tensor.dtype.name for tensor in architecture})
    w = tf.concat([tf.reshape(tensor, [-1]) for tensor in weights], 0)
    buffer = tf.constant(np.random.default_rng(seed).normal(scale=0.1, size=w.shape))
    step = bilevel.VirtualStep(XI, MOMENTUM, buffer, WEIGHT_DECAY)
    return Problem(train_loss, validation_loss, w, architecture, step)


def _require_float64(what: str, dtypes: set[str]) -> None:
    if dtypes != {"float64"}:
        raise InputError(
            f"The {what} must be float64: central differences in fewer digits cannot tell a wrong "
            f"gradient from a right one. Received: {', '.join(sorted(dtypes))}. Build the supernet "
            'under keras.config.set_dtype_policy("float64"), with no dtype of its own.'
        )


def one_step_objective(problem: Problem) -> Objective:
    """alpha -> L_val(w'(alpha), alpha), the function of which the second order is the gradient.

    w'(alpha) = w - xi * (mu * b + d/dw L_train(w, alpha) + lambda * w)    (equation 6)

    Written out here, so that an error in `bilevel.VirtualStep` shows.
    """

    def objective(alphas):
        w, step = problem.w, problem.step
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(w)
            value = problem.train_loss(w, alphas)
        gradient = tape.gradient(value, w)
        update = step.momentum * step.buffer + gradient + step.weight_decay * w
        return problem.validation_loss(w - step.xi * update, alphas)

    return objective


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the checks share, computed by first derivatives only.

    Attributes:
        w_prime: w', the weights after the virtual step.
        direct: d/dalpha L_val(w', alpha), the second order without its mixed derivative.
        v: d/dw' L_val(w', alpha).
    """

    w_prime: tf.Tensor
    direct: bilevel.Alphas
    v: tf.Tensor


def parts_of(problem: Problem) -> Parts:
    """Computes them.

    Raises:
        InputError: The loss is not float64.
    """
    w, alphas, step = problem.w, problem.alphas, problem.step

    def gradients(loss, w):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([w, *alphas])
            value = loss(w, alphas)
        _require_float64("loss", {value.dtype.name})
        return tape.gradient(value, [w, *alphas], unconnected_gradients="zero")

    @tf.function(autograph=False)
    def compute():
        g, *_ = gradients(problem.train_loss, w)
        w_prime = w - step.xi * (step.momentum * step.buffer + g + step.weight_decay * w)
        v, *direct = gradients(problem.validation_loss, w_prime)
        return w_prime, direct, v

    return Parts(*compute())


def finite_difference_objective(problem: Problem, parts: Parts) -> Objective:
    """alpha -> the function of which `second_fd` is the gradient at the present alphas.

        L_val(w', alpha) - xi * [L_train(w + R v, alpha) - L_train(w - R v, alpha)] / (2 R)

    with w', v and R = 0.01 / |v| of the present alphas held fixed (equation 8). It holds whether
    or not the network has kinks.
    """
    # 1 / (2R) and R v, both 0 where v = 0.
    half_inverse = tf.norm(parts.v) / (2 * bilevel.FINITE_DIFFERENCE_STEP)
    displacement = tf.math.divide_no_nan(parts.v, 2 * half_inverse)

    def objective(alphas):
        plus = problem.train_loss(problem.w + displacement, alphas)
        minus = problem.train_loss(problem.w - displacement, alphas)
        direct = problem.validation_loss(parts.w_prime, alphas)
        return direct - problem.step.xi * (plus - minus) * half_inverse

    return objective


def central_difference(
    objective: Objective, alphas: bilevel.Alphas, direction: bilevel.Alphas, length: float
) -> tf.Tensor:
    """[objective(alpha + length * d) - objective(alpha - length * d)] / (2 * length)."""
    plus = objective([a + length * d for a, d in zip(alphas, direction, strict=True)])
    minus = objective([a - length * d for a, d in zip(alphas, direction, strict=True)])
    return (plus - minus) / (2 * length)


def directions(alphas: bilevel.Alphas, count: int = 7, seed: int = 1) -> list[bilevel.Alphas]:
    """Random directions of length 1 in the space of all alphas together."""
    source = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        parts = [source.normal(size=a.shape) for a in alphas]
        norm = np.sqrt(sum((part**2).sum() for part in parts))
        found.append([tf.constant(part / norm, alphas[0].dtype) for part in parts])
    return found


def directional_error(
    gradient: bilevel.Alphas,
    objective: Objective,
    alphas: bilevel.Alphas,
    length: float,
    known: bilevel.Alphas | None = None,
) -> float:
    """How far a gradient is from central differences of its objective along random directions d.

    median over d of |<g, d> - difference(d)|, relative to the root mean square over d of
    difference(d) - <known, d>

    The median, because a difference across a kink or a jump of a network with ReLU says nothing.

    Args:
        gradient: g, one tensor like each of the alphas.
        objective: Of alphas; called inside `tf.function`.
        alphas: Where.
        length: Of the steps; an objective with kinks needs a tiny one.
        known: The part of the gradient that is not in question. The error is then relative to the
            rest, however small that is beside the known part (to a thousandth of the whole).
    """
    chosen = directions(alphas)
    compiled = tf.function(objective, autograph=False)
    differences = np.array([float(central_difference(compiled, alphas, d, length)) for d in chosen])
    errors = np.abs([_inner(gradient, d) for d in chosen] - differences)
    whole = max(np.sqrt(np.mean(differences**2)), 1e-300)
    if known is None:
        return float(np.median(errors) / whole)
    rest = np.sqrt(np.mean((differences - [_inner(known, d) for d in chosen]) ** 2))
    return float(np.median(errors) / max(rest, 1e-3 * whole))


def _inner(first: bilevel.Alphas, second: bilevel.Alphas) -> float:
    return float(sum(tf.reduce_sum(a * b) for a, b in zip(first, second, strict=True)))


def _norm(alphas: bilevel.Alphas) -> float:
    return _inner(alphas, alphas) ** 0.5


def _difference(first: bilevel.Alphas, second: bilevel.Alphas) -> bilevel.Alphas:
    return [a - b for a, b in zip(first, second, strict=True)]


def gradient_checks(problem: Problem, smooth: bool) -> Iterator[Check]:
    """The three gradients of a problem against central differences and against each other.

    Args:
        problem: The problem.
        smooth: Whether its losses have no kinks. Only then does `second_fd` converge to
            `second_exact`; elsewhere their agreement is given for information.
    """
    length, bound = (1e-4, 1e-5) if smooth else (1e-7, 1e-3)
    alphas = problem.alphas
    train_loss, validation_loss, w = problem.train_loss, problem.validation_loss, problem.w

    @tf.function(autograph=False)
    def second_fd(xi, length):
        step = dataclasses.replace(problem.step, xi=xi)
        return bilevel.second_fd(train_loss, validation_loss, w, alphas, step, length=length).alphas

    @tf.function(autograph=False)
    def second_exact(xi):
        step = dataclasses.replace(problem.step, xi=xi)
        return bilevel.second_exact(train_loss, validation_loss, w, alphas, step).alphas

    parts = parts_of(problem)
    known = parts.direct

    @tf.function(autograph=False)
    def first():
        return bilevel.first(validation_loss, w, alphas).alphas

    xi, zero = (tf.constant(value, w.dtype) for value in (problem.step.xi, 0.0))
    published = tf.constant(bilevel.FINITE_DIFFERENCE_STEP, w.dtype)
    g_first, g_exact, g_fd = first(), second_exact(xi), second_fd(xi, published)

    error = directional_error(g_first, lambda a: validation_loss(w, a), alphas, length)
    yield Check("first: central differences of L_val", error, bound)
    error = directional_error(g_exact, one_step_objective(problem), alphas, length, known)
    yield Check("second_exact: central differences of L_val(w'(alpha), alpha)", error, bound)
    error = directional_error(
        g_fd, finite_difference_objective(problem, parts), alphas, length, known
    )
    yield Check("second_fd: central differences of its formula", error, bound)

    product = _difference(g_exact, known)

    def distance(g):
        return _norm(_difference(g, g_exact)) / max(_norm(product), 1e-3 * _norm(g_exact))

    if smooth:
        coarse, fine = (distance(second_fd(xi, r * published)) for r in (1.0, 0.1))
        yield Check("second_fd to second_exact, step 0.01", coarse, 0.05)
        yield Check("second_fd to second_exact, step 0.001", fine, 0.05 / 50)
        # The error of a central difference falls with the square of its step.
        order = float(np.log10(coarse / fine)) if fine > 0 else 2.0
        yield Check("order of that convergence: distance to 2", abs(order - 2), 0.2)
    else:
        estimate = _difference(g_fd, known)
        cosine = _inner(estimate, product) / max(_norm(estimate) * _norm(product), 1e-300)
        yield Check("second_fd's product with second_exact's: cosine", cosine, None)
    for name, g in (
        ("second_fd", second_fd(zero, published)),
        ("second_exact", second_exact(zero)),
    ):
        error = _norm(_difference(g, g_first)) / max(_norm(g_first), 1e-300)
        yield Check(f"{name} at xi = 0: first", error, 1e-12)


def second_derivative_check(
    name: str, function: Callable[..., tf.Tensor], inputs: list[tf.Tensor]
) -> Check:
    """The second derivative of one operation, as `second_exact` takes it, by central differences.

    It is that of h = sum sin(d/dinputs sum sin(function(inputs))): the outer sine makes the tensor
    that goes into the second backward pass a temporary one, whose buffer a kernel may reuse. Some
    networks hide such a fault, because they hold the tensor.

    Args:
        name: Of the operation.
        function: Of the inputs; it may have kinks.
        inputs: Where.
    """

    def objective(inputs):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            value = tf.reduce_sum(tf.sin(function(*inputs)))
        gradients = tape.gradient(value, inputs, unconnected_gradients="zero")
        return tf.add_n([tf.reduce_sum(tf.sin(g)) for g in gradients])

    @tf.function(autograph=False)
    def gradient(inputs):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            value = objective(inputs)
        return tape.gradient(value, inputs, unconnected_gradients="zero")

    # Traced explicitly: TensorFlow would warn of a function that is made for one call.
    second = gradient.get_concrete_function(inputs)(inputs)
    return Check(name, directional_error(second, objective, inputs, 1e-6), 1e-4)
