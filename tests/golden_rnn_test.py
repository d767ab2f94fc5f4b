"""The published numbers of the recurrent half: rnn.npz, in float64 and float32, in graph mode.

Every size comes from the arrays. See `tests/golden.py` for where the fixtures are.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from darts_tf import genotype as genotypes
from darts_tf.losses import BatchLoss
from darts_tf.networks.language import RecurrentEvaluationNetwork, RecurrentSupernet
from darts_tf.networks.language_model import Regularization
from darts_tf.search.architecture_search import ArchitectureSearch
from darts_tf.search.published_second_order import PublishedSecondOrder
from darts_tf.space.recurrent import RecurrentDerivedCell, RecurrentSearchCell
from darts_tf.training.optimizers import SGD
from tests.golden import BOTH, close, golden

STATES, GRADIENTS, STATISTICS = (1e-10, 1e-4), (1e-10, 1e-4), (1e-10, 1e-5)
LOSS, FIRST = (1e-9, 1e-5), (1e-10, 1e-6)
FINITE_DIFFERENCE, EXACT = (1e-9, 1e-4), (1e-10, 1e-6)
# Without XLA and with it, each in one precision: what differs is rounding, and tracing takes time.
BOTH_WAYS = pytest.mark.parametrize(
    ("precision", "compiled"), [("float64", False), ("float32", True)], indirect=["precision"]
)
NO_DROPOUT = dict.fromkeys(("dropout", "dropouth", "dropoutx", "dropouti", "dropoute"), 0.0)


def part(prefix):
    """The arrays of rnn.npz below a prefix, by the rest of their name."""
    arrays = golden("rnn.npz")
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def assign(cell, arrays):
    """Gives a cell the weights of the fixture."""
    cell.W0.assign(arrays["W0"])
    for variable, value in zip(cell.W, arrays["Ws"], strict=True):
        variable.assign(value)


def search_cell(arrays, compiled):
    """The cell of the fixture with its weights and running statistics."""
    nodes = next(n for n in range(1, 30) if n * (n + 1) // 2 == len(arrays["alphas"]))
    cell = RecurrentSearchCell(arrays["x"].shape[-1], nodes, jit_compile=compiled)
    assign(cell, arrays)
    cell.moving_mean.assign(arrays["bn_moving_mean_before"])
    cell.moving_variance.assign(arrays["bn_moving_variance_before"])
    return cell


def masks_of(arrays, tag, precision):
    """The dropout masks of a case of the fixture."""
    if tag != "train_masked":
        return {}
    names = {"input_mask": "x_mask", "hidden_mask": "h_mask"}
    return {name: tf.constant(arrays[key], precision) for name, key in names.items()}


@BOTH_WAYS
@pytest.mark.parametrize("tag", ["train_masked", "train_nomask", "eval"])
def test_the_search_cell(tag, compiled, precision):
    arrays = part("search_cell/")
    cell = search_cell(arrays, compiled)
    x, h, alphas, cotangent = (
        tf.constant(arrays[k], precision) for k in ("x", "h_prev", "alphas", "cotangent")
    )
    weights = [v.value for v in (cell.W0, *cell.W)]
    masks = masks_of(arrays, tag, precision)

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch([x, h, alphas])
            softmax = tf.nn.softmax(alphas)
            unrolled = cell(x[None], h, softmax, training=tag != "eval", keep_states=True, **masks)
            total = tf.reduce_sum(unrolled.last * cotangent)
        return unrolled.states[0], unrolled.last, tape.gradient(total, [x, h, alphas, *weights])

    states, last, (dx, dh, dalphas, dW0, *dWs) = run()
    close(states, arrays[f"{tag}/states"], STATES, precision, "states")
    close(last, arrays[f"{tag}/h_next"], STATES, precision, "h_next")
    gradients = {"x": dx, "h_prev": dh, "alphas": dalphas, "W0": dW0, "Ws": np.stack(dWs)}
    for name, gradient in gradients.items():
        close(gradient, arrays[f"{tag}/grad/{name}"], GRADIENTS, precision, name)
    for name in ("moving_mean", "moving_variance"):
        when = "before" if tag == "eval" else "after"
        home = "" if tag == "eval" else f"{tag}/"
        close(getattr(cell, name), arrays[f"{home}bn_{name}_{when}"], STATISTICS, precision, name)


@BOTH_WAYS
def test_the_search_cell_over_time(compiled, precision):
    arrays, sequence = part("search_cell/"), part("search_cell/sequence/")
    cell = search_cell(arrays, compiled)
    x, h, alphas = (
        tf.constant(v, precision) for v in (sequence["x"], arrays["h_prev"], arrays["alphas"])
    )

    @tf.function
    def run():
        unrolled = cell(x, h, tf.nn.softmax(alphas), training=True)
        return unrolled.outputs, unrolled.last

    outputs, last = run()
    close(outputs, sequence["outputs"], STATES, precision, "outputs")
    close(last, sequence["h_last"].reshape(last.shape), STATES, precision, "last")
    for name in ("moving_mean", "moving_variance"):
        close(getattr(cell, name), sequence[f"bn_{name}_after"], STATISTICS, precision, name)


def derived_cases():
    """The genotypes of the fixture."""
    try:
        return sorted({name.split("/")[0] for name in part("derived_cell/")})
    except pytest.skip.Exception:
        return ["absent"]


@BOTH
@pytest.mark.parametrize("tag", ["train_masked", "eval"])
@pytest.mark.parametrize("name", derived_cases())
def test_the_derived_cells(name, tag, precision):
    arrays, own = part("search_cell/"), part(f"derived_cell/{name}/")
    genotype = genotypes.zoo.genotype(name, "rnn")
    cell = RecurrentDerivedCell(genotype, arrays["h_prev"].shape[-1])
    cell.build(arrays["x"].shape)
    assign(cell, {**arrays, **own})
    x, h = (tf.constant(arrays[k], precision) for k in ("x", "h_prev"))
    masks = masks_of(arrays, tag, precision)
    last = tf.function(lambda: cell.unroll(x[None], h, **masks).last)()
    close(last, own[f"{tag}/h_next"], STATES, precision, "unrolled")
    if not masks:
        stepped = tf.function(lambda: cell(x, [h]))()[0]
        close(stepped, own[f"{tag}/h_next"], STATES, precision, "one step")


class Tiny:
    """The language model of the fixture, its two windows and the search around it."""

    def __init__(self, precision, order="first", clip=0.25, compiled=False, **regularization):
        self.arrays, self.precision = part("model/"), precision
        arrays = self.arrays
        hp = {k.removeprefix("hp/"): float(v) for k, v in arrays.items() if k.startswith("hp/")}
        vocabulary, width = arrays["embedding"].shape
        self.supernet = RecurrentSupernet(
            vocabulary,
            width,
            batch_size=arrays["hidden_train"].shape[0],
            num_nodes=len(arrays["Ws"]),
            regularization=Regularization(**{**NO_DROPOUT, "beta": 0.0, **regularization}),
            jit_compile=compiled,
        )
        supernet = self.supernet
        for variable, name in (
            (supernet.embedding, "embedding"),
            (supernet.decoder_bias, "decoder_bias"),
            (supernet.alphas_recurrent, "alphas"),
            (supernet.hidden, "hidden_train"),
            (supernet.validation_hidden, "hidden_val"),
        ):
            variable.assign(arrays[name])
        assign(supernet.cell, arrays)
        if order == "published":
            weights = supernet.network_parameters
            order = PublishedSecondOrder.keeping(weights, supernet.embedding)
        self.search = ArchitectureSearch(supernet, order, clip_virtual_step=True)
        self.clip = tf.Variable(clip, dtype=precision)
        # An alpha optimizer that does nothing but keep the gradient: alpha <- alpha - 1 g.
        self.search.compile(
            SGD(hp["eta"], 0.0, hp["weight_decay"], self.clip),
            SGD(1.0, 0.0, 0.0, None),
            "sparse_categorical_crossentropy",
        )
        self.search.batch_loss = BatchLoss(tf.nn.sparse_softmax_cross_entropy_with_logits)
        # Time-major in the fixture.
        self.train, self.validation = (
            tuple(tf.constant(arrays[f"{half}_{k}"].T) for k in "xy") for half in ("train", "val")
        )
        self.train_step = tf.function(self.search.train_step)
        self.variables = [*supernet.variables, *self.search.optimizer.variables]
        self.beginning = [np.array(v) for v in self.variables]

    def begin(self, clip):
        """Sets everything back that a step changes, and the clip norm."""
        for variable, value in zip(self.variables, self.beginning, strict=True):
            variable.assign(value)
        self.search.reset_metrics()
        self.clip.assign(clip)

    def step(self):
        """One iteration in graph mode; returns the alpha gradient and the two losses."""
        before = self.supernet.alphas_recurrent.numpy()
        logs = self.train_step((self.train, self.validation))
        gradient = before - self.supernet.alphas_recurrent.numpy()
        return gradient, {name: float(value) for name, value in logs.items()}

    def validation_hidden_is(self, name):
        close(
            self.supernet.validation_hidden, self.arrays[name], STATES, self.precision, "validation"
        )


@functools.cache
def traced(precision, order, compiled):
    """The search of an order; tracing takes long, so one serves for every clip norm."""
    return Tiny(precision, order, compiled=compiled)


def clipped(precision, order, clip, compiled=False):
    """The search of an order at its beginning, with a clip norm."""
    tiny = traced(precision, order, compiled)
    tiny.begin(clip)
    return tiny


@BOTH
def test_the_language_model_forward(precision):
    tiny = Tiny(precision, alpha=1.0, beta=0.0)
    arrays, supernet = tiny.arrays, tiny.supernet
    forward = tf.function(lambda: supernet.forward(tiny.train[0], supernet.hidden.value, True))
    result = forward()
    log_prob = tf.transpose(tf.nn.log_softmax(result.logits), [1, 0, 2])
    close(log_prob, arrays["train_log_prob"], LOSS, precision, "log-probabilities")
    close(result.hidden, arrays["hidden_train_next"], STATES, precision, "hidden")
    close(result.penalty, arrays["ar_alpha1"], LOSS, precision, "AR")
    supernet.regularization = Regularization(**NO_DROPOUT, alpha=0.0, beta=1.0)
    penalty = tf.function(lambda: supernet.forward(tiny.train[0], supernet.hidden.value, True))()
    close(penalty.penalty, arrays["tar_beta1"], LOSS, precision, "TAR")


@BOTH_WAYS
def test_first_order(compiled, precision):
    tiny = Tiny(precision, "first", compiled=compiled)
    gradient, logs = tiny.step()
    close(gradient, tiny.arrays["first_order/grad_alphas"], FIRST, precision, "gradient")
    close(logs["arch_loss"], tiny.arrays["val_loss"], LOSS, precision, "validation loss")


@BOTH
@pytest.mark.parametrize("clip", [0.25, 100.0])
def test_second_order_by_finite_differences(clip, precision):
    tiny = clipped(precision, "second_fd", clip)
    arrays = part(f"model/clip{clip:g}/clean/")
    gradient, logs = tiny.step()
    close(gradient, arrays["fd_grad_alphas"], FINITE_DIFFERENCE, precision, "gradient")
    close(logs["arch_loss"], arrays["val_loss_at_wprime"], LOSS, precision, "loss at w'")


@BOTH_WAYS
@pytest.mark.parametrize("clip", [0.25, 100.0])
def test_second_order_exact(clip, compiled, precision):
    tiny = clipped(precision, "second_exact", clip, compiled)
    arrays = part(f"model/clip{clip:g}/clean/")
    gradient, logs = tiny.step()
    close(gradient, arrays["exact_grad_alphas"], EXACT, precision, "gradient")
    close(logs["arch_loss"], arrays["val_loss_at_wprime"], LOSS, precision, "loss at w'")


@BOTH
@pytest.mark.parametrize("clip", [0.25, 100.0])
def test_second_order_as_published_with_its_departures(clip, precision):
    tiny = clipped(precision, "published", clip)
    arrays = part(f"model/clip{clip:g}/reference/")
    gradient, logs = tiny.step()
    close(gradient, arrays["fd_grad_alphas"], FINITE_DIFFERENCE, precision, "gradient")
    close(logs["arch_loss"], arrays["val_loss_at_wprime"], LOSS, precision, "loss at w'")
    tiny.validation_hidden_is(f"clip{clip:g}/reference/hidden_val_next")


@BOTH
@pytest.mark.parametrize("clip", [0.25, 100.0])
def test_the_parts_of_the_second_order(clip, precision):
    """The virtual step's clip factor, v and the direct term, by the pure loss functions."""
    tiny = clipped(precision, "second_fd", clip)
    arrays, search = part(f"model/clip{clip:g}/"), tiny.search
    own = {id(tiny.supernet.hidden): tiny.supernet.validation_hidden.value}
    flat = tf.concat([tf.reshape(v.value, [-1]) for v in tiny.supernet.network_parameters], 0)
    alphas = [tiny.supernet.alphas_recurrent.value]

    @tf.function
    def run():
        train = search.loss_function((*tiny.train, None))
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss = train(flat, alphas)
        g = tape.gradient(loss, flat)
        step = search._virtual_step()
        w_prime = step(flat, g)
        with tf.GradientTape() as tape:
            tape.watch([w_prime, *alphas])
            passed = search._evaluate((*tiny.validation, None), w_prime, alphas, lambda t: t, own)
        v, direct = tape.gradient(passed.loss, [w_prime, *alphas])
        return loss, tf.norm(g), step.clip_factor(g), tf.norm(v), direct

    loss, g_norm, factor, v_norm, direct = run()
    close(loss, tiny.arrays["train_loss"], LOSS, precision, "train loss")
    close(g_norm, arrays["train_grad_norm"], GRADIENTS, precision, "norm of g")
    close(factor, arrays["clean/clip_coef_clamped"], LOSS, precision, "clip factor")
    close(v_norm, arrays["clean/vector_norm_unclipped"], GRADIENTS, precision, "norm of v")
    close(direct, arrays["clean/dalpha_at_wprime"], FIRST, precision, "direct term")


@BOTH
def test_the_weight_step_carries_the_training_state_and_adds_the_penalties(precision):
    """The step is the clipped gradient of NLL + AR + TAR, recomputed here from the losses."""
    tiny = Tiny(precision, "first", 0.25, alpha=0.3, beta=0.7)
    supernet = tiny.supernet
    w = [v.numpy() for v in supernet.network_parameters]
    start = supernet.hidden.numpy()
    supernet_alphas = supernet.alphas_recurrent.numpy()
    tiny.step()
    hidden = supernet.hidden.numpy()
    after = [v.numpy() for v in supernet.network_parameters]
    # Back to where the weight step began: the old weights with the new alphas.
    for variable, value in zip(supernet.network_parameters, w, strict=True):
        variable.assign(value)
    assert np.abs(supernet_alphas - supernet.alphas_recurrent.numpy()).max() > 0

    @tf.function
    def objective():
        sources = [v.value for v in supernet.network_parameters]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            result = supernet.forward(tiny.train[0], tf.constant(start), True)
            nll = tf.nn.sparse_softmax_cross_entropy_with_logits(tiny.train[1], result.logits)
            total = tf.reduce_mean(nll) + result.penalty
        return result, [tf.convert_to_tensor(g) for g in tape.gradient(total, sources)]

    result, gradients = objective()
    close(hidden, result.hidden.numpy(), STATES, precision, "hidden")
    assert result.penalty > 0
    norm = np.sqrt(sum(np.square(np.float64(g)).sum() for g in gradients))
    factor = min(1.0, 0.25 / (norm + 1e-6))
    eta, decay = (float(tiny.arrays[f"hp/{k}"]) for k in ("eta", "weight_decay"))
    for one, old, g in zip(after, w, gradients, strict=True):
        expected = old - eta * (factor * g.numpy() + decay * old)
        close(one, expected, (1e-9, 1e-4), precision, "weights")


def test_weight_counts_are_the_published_ones():
    assert RecurrentSupernet(10000, 300).count_weights() == 4_810_000
    for name, expected in (
        ("DARTS_V1", 22_960_000),
        ("DARTS_V2", 22_960_000),
        ("ENAS", 27_295_000),
    ):
        genotype = genotypes.zoo.genotype(name, "rnn")
        assert RecurrentEvaluationNetwork(genotype, 10000, 850).count_weights() == expected
    genotype = genotypes.zoo.genotype("DARTS_V2", "rnn")
    assert RecurrentEvaluationNetwork(genotype, 33278, 700).count_weights() == 33_127_878
