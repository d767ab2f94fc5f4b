"""The published numbers: primitives, search network, derivation and toy problem.

Every size, the genotype and the number of classes come from the arrays. All comparisons run inside
`tf.function`. See `tests/golden.py` for where the fixtures are.

Running statistics: `after/*`, evaluation-mode outputs and `flat/bn_after_1_forward` are compared in
full, since BatchNorm keeps the unbiased variance as the published networks do.
`flat/bn_after_alpha_step`, `flat/bn_after_w_step` and `flat/bn_after_first_order_alpha_step` are
not: there the authors' passes for alpha have moved the statistics, and here only the weight step
does. `flat/bn_after_1_forward` is what the statistics must be after a whole iteration here, up to
the new alpha of its weight step.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf import genotype as genotypes
from darts_tf.networks.supernet import Supernet
from darts_tf.search import bilevel, toy
from darts_tf.search.architecture_search import ArchitectureSearch
from darts_tf.space.block import Block, PrimitiveFunction
from darts_tf.space.primitives import FACTORIZED_REDUCE, RELU_CONV_BN, primitive
from darts_tf.training.optimizers import SGD, Adam
from tests.golden import BOTH, GOLDEN, close, golden, load_arrays

# ------------------------------------------------------------------------------------- primitives

OUTPUTS, INPUT_GRADIENTS = (1e-10, 2e-5), (1e-10, 5e-5)
WEIGHT_GRADIENTS, STATISTICS = (1e-10, 3e-4), (1e-10, 1e-5)


def operation_cases():
    path = GOLDEN / "cnn_ops.npz"
    if not path.is_file():
        return ["absent"]
    return sorted({"/".join(key.split("/")[:3]) for key in load_arrays(path)})


@BOTH
@pytest.mark.parametrize("case", operation_cases())
def test_primitive_agrees_forward_backward_and_in_running_statistics(case, precision):
    arrays = golden("cnn_ops.npz")
    group, name, stride = case.split("/")
    part = {k.removeprefix(case + "/"): v for k, v in arrays.items() if k.startswith(case + "/")}
    named = {"relu_conv_bn_6to4": RELU_CONV_BN, "factorized_reduce_6to4": FACTORIZED_REDUCE}
    operation = named.get(name) or primitive(name)
    function = PrimitiveFunction(operation, int(stride[1]), group == "search")
    channels = part["x"].shape[-1], part["y_train"].shape[-1]
    block = Block(function, *channels, affine=group == "eval")
    parameters = block.named_parameters()
    assert set(parameters) == {k.removeprefix("w/") for k in part if k.startswith("w/")}
    for key, view in parameters.items():
        view.assign(part[f"w/{key}"])
    x, cotangent = (tf.constant(part[k], precision) for k in ("x", "cotangent"))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = block(x, training=True)
            total = tf.reduce_sum(y * cotangent)
        sources = [x, *(v.value for v in block.trainable_variables)]
        return y, *tape.gradient(total, sources, unconnected_gradients="zero")

    y, dx, *gradient = run()
    close(y, part["y_train"], OUTPUTS, precision, "output")
    close(dx, part["dx"], INPUT_GRADIENTS, precision, "input gradient")
    for key, view in parameters.items():
        close(view.of(gradient[0]), part[f"grad/{key}"], WEIGHT_GRADIENTS, precision, key)
    places = block.named_statistics()
    assert set(places) == {k.removeprefix("after/") for k in part if k.startswith("after/")}
    for key, view in places.items():
        close(view.numpy(), part[f"after/{key}"], STATISTICS, precision, key)
    if "y_eval_after" in part:
        evaluated = tf.function(lambda: block(x, training=False))()
        close(evaluated, part["y_eval_after"], OUTPUTS, precision, "evaluation")


# --------------------------------------------------------------------------------- search network

LOSS, F32, FIRST = (1e-9, 1e-5), (2e-6, 1e-4), (1e-10, 1e-6)
FD_PRODUCT, FD_GRADIENT, EXACT = (1e-8, 1e-3), (1e-9, 3e-5), (1e-10, 1e-6)
ALPHA = (1e-10, 1e-6)


class Tiny:
    """The search network of the fixture with its data, weights and hyperparameters."""

    def __init__(self, arrays, precision):
        self.arrays, self.precision = arrays, precision
        kernel = arrays["w/stem/conv/kernel"]
        names = [str(n) for n in arrays["param_names"]]
        rows = len(arrays["alphas/normal"])
        self.supernet = Supernet(
            num_classes=arrays["w/classifier/kernel"].shape[1],
            init_channels=kernel.shape[3] // 3,
            num_cells=len({n.split("/")[0] for n in names if n.startswith("cell")}),
            num_nodes=next(n for n in range(1, 20) if n * (n + 3) // 2 == rows),
            image_shape=arrays["train/x"].shape[1:],
        )
        self.named = self.supernet.named_parameters()
        assert set(self.named) == set(names)
        for name in names:
            self.named[name].assign(arrays[f"w/{name}"])
        self.names, self.sizes = names, arrays["param_sizes"]
        self.supernet.alphas_normal.assign(arrays["alphas/normal"])
        self.supernet.alphas_reduce.assign(arrays["alphas/reduce"])
        self.train, self.validation = (
            (tf.constant(arrays[f"{half}/x"], precision), tf.constant(arrays[f"{half}/y"]))
            for half in ("train", "val")
        )
        self.hp = {
            k.removeprefix("hp/"): float(v) for k, v in arrays.items() if k.startswith("hp/")
        }

    def by_name(self, vector):
        """The tensors of a flat vector of the fixture, by name."""
        pieces = np.split(vector, np.cumsum(self.sizes)[:-1])
        return {n: p.reshape(self.named[n].shape) for n, p in zip(self.names, pieces, strict=True)}

    def like_weights(self, vector):
        """A flat vector of the fixture as arrays like this network's weights."""
        arrays = {id(v): np.zeros(v.shape) for v in self.supernet.network_parameters}
        for name, value in self.by_name(vector).items():
            view = self.named[name]
            arrays[id(view.variable)].ravel()[view.start : view.start + value.size] = value.ravel()
        return list(arrays.values())

    def ours(self, vector):
        """A flat vector of the fixture in the order of this network's weights."""
        return np.concatenate([array.ravel() for array in self.like_weights(vector)])

    def statistics(self):
        """All running statistics in the order of the fixture."""
        views = self.supernet.named_statistics()
        names = [str(n) for n in self.arrays["bn_names"]]
        assert set(views) == set(names)
        return np.concatenate([views[n].numpy() for n in names])

    def search(self, order, clip=None):
        """A compiled search with the fixture's hyperparameters and momentum buffers."""
        hp = self.hp
        search = ArchitectureSearch(self.supernet, order=order)
        optimizer = SGD(hp["eta"], hp["momentum"], hp["weight_decay"], clip or hp["grad_clip"])
        search.compile(
            optimizer=optimizer,
            arch_optimizer=adam(self.arrays),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        momentum = self.like_weights(self.arrays["flat/momentum"])
        for buffer, value in zip(optimizer.momentum_buffers, momentum, strict=True):
            buffer.assign(value)
        return search

    def vector(self):
        return tf.constant(
            self.ours(np.concatenate([self.arrays[f"w/{n}"].ravel() for n in self.names])),
            self.precision,
        )

    def losses(self, search):
        """L_train and L_val as functions (w, alphas), as the search itself makes them."""
        return (search.loss_function((*half, None)) for half in (self.train, self.validation))

    def step(self):
        hp = self.hp
        buffer = tf.constant(self.ours(self.arrays["flat/momentum"]), self.precision)
        return bilevel.VirtualStep(hp["eta"], hp["momentum"], buffer, hp["weight_decay"])


def adam(arrays, legacy_epsilon=False):
    """The optimizer of the alphas with the fixture's hyperparameters."""
    names = ("lr", "beta1", "beta2", "eps", "weight_decay")
    return Adam(*(float(arrays[f"hp/alpha_{name}"]) for name in names), legacy_epsilon)


@pytest.fixture
def tiny(precision):
    return Tiny(golden("cnn_search_tiny.npz"), precision)


def check_alphas(actual, arrays, prefix, tolerance, precision):
    for value, kind in zip(actual, ("normal", "reduce"), strict=True):
        close(value, arrays[f"{prefix}/{kind}"], tolerance, precision, f"{prefix}/{kind}")


@BOTH
def test_search_network_agrees_forward_and_backward(tiny, precision):
    arrays, supernet = tiny.arrays, tiny.supernet
    x, y = tiny.train
    variables = [v.value for v in supernet.network_parameters]
    alphas = [v.value for v in supernet.architecture_parameters]

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(alphas)
            outputs = supernet.forward(x, training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=outputs[-1])
            )
        g_w, g_alphas = tape.gradient(loss, [variables, alphas])
        return outputs, loss, g_w, g_alphas

    outputs, loss, g_w, g_alphas = run()
    close(outputs[0], arrays["fwd_train/stem"], F32, precision, "stem")
    for index, output in enumerate(outputs[1:-1]):
        close(output, arrays[f"fwd_train/cell{index}"], F32, precision, f"cell{index}")
    close(outputs[-1], arrays["fwd_train/logits"], LOSS, precision, "logits")
    close(loss, arrays["fwd_train/loss"], LOSS, precision, "loss")
    flat = np.concatenate([g.numpy().ravel() for g in g_w])
    close(flat, tiny.ours(arrays["flat/grad_train"]), F32, precision, "gradient")
    close(np.linalg.norm(flat), arrays["fwd_train/grad_norm"], (1e-9, 1e-4), precision, "norm")
    check_alphas(g_alphas, arrays, "fwd_train/grad_alphas", FIRST, precision)
    close(tiny.statistics(), arrays["flat/bn_after_1_forward"], STATISTICS, precision, "statistics")

    logits = tf.function(lambda: supernet(x, training=False))()
    close(logits, arrays["fwd_eval_after_1_forward/logits"], LOSS, precision, "evaluation")


@BOTH
def test_first_order_gradient_agrees(tiny, precision):
    search = tiny.search("first")
    _, validation_loss = tiny.losses(search)
    alphas = [tf.convert_to_tensor(v) for v in tiny.supernet.architecture_parameters]
    g = tf.function(lambda: bilevel.first(validation_loss, tiny.vector(), alphas))()
    close(g.validation_loss, tiny.arrays["first_order/val_loss"], LOSS, precision, "loss")
    check_alphas(g.alphas, tiny.arrays, "first_order/grad", FIRST, precision)


@BOTH
def test_virtual_step_and_its_gradient_agree(tiny, precision):
    arrays, search, step = tiny.arrays, tiny.search("second_fd"), tiny.step()
    train_loss, validation_loss = tiny.losses(search)
    alphas = [tf.convert_to_tensor(v) for v in tiny.supernet.architecture_parameters]
    w = tiny.vector()

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = train_loss(w, alphas)
        w_prime = step(w, tape.gradient(loss, w))
        with tf.GradientTape() as tape:
            tape.watch([w_prime, *alphas])
            loss = validation_loss(w_prime, alphas)
        return w_prime, loss, tape.gradient(loss, [w_prime, *alphas])

    w_prime, loss, (v, *direct) = run()
    close(w_prime, tiny.ours(arrays["flat/wprime"]), F32, precision, "w'")
    close(loss, arrays["unrolled/val_loss_at_wprime"], LOSS, precision, "loss")
    close(v, tiny.ours(arrays["flat/vector"]), F32, precision, "v")
    close(tf.norm(v), arrays["unrolled/vector_norm"], (1e-9, 1e-4), precision, "norm")
    check_alphas(direct, arrays, "unrolled/dalpha_at_wprime", FIRST, precision)


@BOTH
@pytest.mark.parametrize("order", ["second_fd", "second_exact"])
def test_second_order_gradient_and_product_agree(tiny, order, precision):
    arrays, search, step = tiny.arrays, tiny.search(order), tiny.step()
    train_loss, validation_loss = tiny.losses(search)
    alphas = [tf.convert_to_tensor(v) for v in tiny.supernet.architecture_parameters]
    w = tiny.vector()

    @tf.function
    def run():
        gradient = bilevel.architecture_gradient(
            order, train_loss, validation_loss, w, alphas, step
        )
        return gradient.alphas, gradient.validation_loss

    g, loss = run()
    name = order.removeprefix("second_")
    tolerance, product_tolerance = {
        "fd": (FD_GRADIENT, FD_PRODUCT),
        "exact": (EXACT, (1e-8, 1e-3)),
    }[name]
    close(loss, arrays["unrolled/val_loss_at_wprime"], LOSS, precision, "loss")
    check_alphas(g, arrays, f"unrolled/{name}_grad", tolerance, precision)
    product = [
        (arrays[f"unrolled/dalpha_at_wprime/{kind}"] - value) / tiny.hp["eta"]
        for value, kind in zip(g, ("normal", "reduce"), strict=True)
    ]
    check_alphas(product, arrays, f"unrolled/{name}_hvp", product_tolerance, precision)


@BOTH
def test_whole_iteration_agrees(tiny, precision):
    arrays = tiny.arrays
    search = tiny.search("second_fd")
    result = tf.function(lambda: search.train_step((tiny.train, tiny.validation)))()
    alphas = [v.numpy() for v in tiny.supernet.architecture_parameters]
    check_alphas(alphas, arrays, "iteration/alphas_after", ALPHA, precision)
    close(result["loss"], arrays["iteration/train_loss_w_step"], (1e-6, 1e-5), precision, "loss")
    expected = tiny.by_name(arrays["flat/w_after_iteration"])
    for name in tiny.names:
        close(tiny.named[name].numpy(), expected[name], F32, precision, name)
    expected = tiny.like_weights(arrays["flat/momentum_after_iteration"])
    for buffer, value in zip(search.optimizer.momentum_buffers, expected, strict=True):
        close(buffer.numpy(), value, F32, precision, "momentum")
    # Only the weight step has moved the statistics; its alpha differs from the fixture's by one
    # Adam step.
    close(
        tiny.statistics(), arrays["flat/bn_after_1_forward"], (1e-3, 1e-3), precision, "statistics"
    )


@BOTH
@pytest.mark.parametrize("legacy_epsilon", [False, True])
def test_adam_step_agrees_in_both_forms(legacy_epsilon, precision):
    arrays = golden("cnn_search_tiny.npz")
    kinds = ("normal", "reduce")
    alphas = [keras.Variable(arrays[f"alphas/{kind}"].astype(precision)) for kind in kinds]
    gradients = [tf.constant(arrays[f"unrolled/fd_grad/{kind}"], precision) for kind in kinds]
    optimizer = adam(arrays, legacy_epsilon)
    optimizer.build(alphas)
    tf.function(lambda: optimizer.apply(gradients, alphas))()
    suffix = "_legacy_adam" if legacy_epsilon else ""
    values = [v.numpy() for v in alphas]
    check_alphas(values, arrays, f"iteration/alphas_after{suffix}", ALPHA, precision)


@BOTH
def test_active_clipping_agrees(tiny, precision):
    for alphas, kind in zip(
        tiny.supernet.architecture_parameters, ("normal", "reduce"), strict=True
    ):
        alphas.assign(tiny.arrays[f"iteration/alphas_after/{kind}"])
    search = tiny.search("first", clip=1.0)
    train_loss, _ = tiny.losses(search)
    variables = tiny.supernet.network_parameters
    alphas = [tf.convert_to_tensor(v) for v in tiny.supernet.architecture_parameters]
    w = tiny.vector()

    @tf.function
    def weight_step():
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = train_loss(w, alphas)
        pieces = tf.split(tape.gradient(loss, w), [int(np.prod(v.shape)) for v in variables])
        gradients = [tf.reshape(g, v.shape) for g, v in zip(pieces, variables, strict=True)]
        search.optimizer.apply(gradients, variables)
        return loss

    loss = weight_step()
    expected = tiny.arrays["iteration/train_loss_w_step"]
    close(loss, expected, LOSS, precision, "loss with the new alphas")
    prefix = "iteration_clip1/w_after/"
    names = [k.removeprefix(prefix) for k in tiny.arrays if k.startswith(prefix)]
    assert names
    for name in names:
        close(tiny.named[name].numpy(), tiny.arrays[prefix + name], (1e-9, 1e-5), precision, name)


@BOTH
def test_first_order_architecture_step_agrees(tiny, precision):
    search = tiny.search("first")
    tf.function(lambda: search.train_step((tiny.train, tiny.validation)))()
    alphas = [v.numpy() for v in tiny.supernet.architecture_parameters]
    check_alphas(alphas, tiny.arrays, "iteration_first_order/alphas_after", ALPHA, precision)


# ------------------------------------------------------------------------------ genotypes and toy


def test_derivation_agrees_in_every_case():
    cases = golden("genotype_cases.json")
    for case in cases["cnn"]:
        found = genotypes.derive(np.array(case["alphas_normal"]), np.array(case["alphas_reduce"]))
        expected = case["genotype"]
        assert found == genotypes.Genotype(
            normal=[tuple(edge) for edge in expected["normal"]],
            normal_concat=expected["normal_concat"],
            reduce=[tuple(edge) for edge in expected["reduce"]],
            reduce_concat=expected["reduce_concat"],
        ), case["name"]
    for case in cases["rnn"]:
        found = genotypes.derive_recurrent(np.array(case["alphas"]))
        expected = case["genotype"]
        assert found == genotypes.RecurrentGenotype(
            [tuple(edge) for edge in expected["recurrent"]], expected["concat"]
        ), case["name"]


@BOTH
@pytest.mark.parametrize("order", ["second_fd", "second_exact"])
def test_toy_trajectories_agree(order, precision):
    for case in golden("toy_bilevel.json")["cases"]:
        path = toy.trajectory(
            xi=case["xi"],
            steps=len(case["grad_alpha"]),
            alpha_rate=case["lr_alpha"],
            weight_rate=case["lr_w"],
            order=order,
            dtype=precision,
        )
        bound = (1e-10, 1e-4 if order == "second_fd" else 1e-5)
        close(path.alpha, case["a"], bound, precision, f"xi={case['xi']}")
        close(path.w, case["w"], bound, precision, f"xi={case['xi']}")
        close(path.gradient, case["grad_alpha"], bound, precision, f"xi={case['xi']}")
