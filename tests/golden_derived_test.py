"""The published numbers of a derived network, with and without drop path.

Every size and the genotype come from the arrays. See `tests/golden.py` for where they are.
"""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf import genotype as genotypes
from darts_tf.losses import label_smoothed_cross_entropy
from darts_tf.networks.evaluation import EvaluationNetwork
from tests.golden import BOTH, close, golden

LOSS, F32 = (1e-9, 1e-5), (2e-6, 1e-4)


@pytest.fixture
def derived(precision):
    arrays = golden("cnn_derived_tiny.npz")
    names = [k.removeprefix("w/") for k in arrays if k.startswith("w/")]
    network = EvaluationNetwork(
        genotypes.zoo.genotype(str(arrays["genotype_name"])),
        num_classes=arrays["w/classifier/kernel"].shape[1],
        init_channels=arrays["w/stem/conv/kernel"].shape[3] // 3,
        num_cells=sum(k.startswith("train/cell") for k in arrays),
        auxiliary=True,
        image_shape=arrays["x"].shape[1:],
    )
    parameters = network.named_parameters()
    assert set(names) == {n for n in parameters if not n.startswith("auxiliary/")}
    for name in names:
        parameters[name].assign(arrays[f"w/{name}"])
    # The fixture's rule for the auxiliary head: value i is a * sin(0.7 i + phi) in float32.
    waves = {
        "auxiliary/stage1/conv/kernel": (0.125, 0.0),
        "auxiliary/stage2/conv/kernel": (0.05, 1.0),
        "auxiliary/classifier/kernel": (0.04, 2.0),
    }
    for name, view in parameters.items():
        if name in waves:
            size, (a, phase) = int(np.prod(view.shape)), waves[name]
            wave = (a * np.sin(0.7 * np.arange(size) + phase)).astype(np.float32)
            view.assign(wave)
        elif name.startswith("auxiliary/"):
            view.assign(np.full(view.shape, float(name.endswith("gamma"))))
    return arrays, network, parameters


@BOTH
def test_derived_network_agrees(derived, precision):
    arrays, network, parameters = derived
    x, y = tf.constant(arrays["x"], precision), tf.constant(arrays["y"])
    names = [n for n in parameters if f"train/grad_l2/{n}" in arrays]
    assert names

    def cross_entropy(logits):
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        )

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            outputs = network.forward(x, training=True)
            loss = cross_entropy(outputs.logits)
        smooth = tf.reduce_mean(label_smoothed_cross_entropy(0.1)(y, outputs.logits))
        losses = loss, cross_entropy(outputs.auxiliary_logits), smooth
        variables = [v.value for v in network.trainable_variables]
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        return outputs.cells, outputs.logits, outputs.auxiliary_logits, losses, gradients

    cells, logits, auxiliary, (loss, loss_auxiliary, smooth), gradients = run()
    by_id = dict(zip(map(id, network.trainable_variables), gradients, strict=True))
    for index, cell in enumerate(cells):
        close(cell, arrays[f"train/cell{index}"], F32, precision, f"cell{index}")
    close(logits, arrays["train/logits"], LOSS, precision, "logits")
    close(auxiliary, arrays["train/aux_logits"], (1e-9, 3e-4), precision, "auxiliary logits")
    close(loss, arrays["train/loss"], LOSS, precision, "loss")
    close(loss_auxiliary, arrays["train/loss_aux"], (1e-9, 3e-4), precision, "auxiliary loss")
    total = loss + 0.4 * loss_auxiliary
    close(total, arrays["train/loss_total_aux0.4"], (1e-9, 3e-4), precision, "total loss")
    close(smooth, arrays["train/loss_label_smooth_0.1"], LOSS, precision, "smoothed loss")
    for name in names:
        gradient = parameters[name].of(by_id[id(parameters[name].variable)])
        norm = np.linalg.norm(np.ravel(gradient))
        close(norm, arrays[f"train/grad_l2/{name}"], (1e-9, 3e-4), precision, name)
        if f"train/grad/{name}" in arrays:
            close(gradient, arrays[f"train/grad/{name}"], (1e-9, 3e-4), precision, name)
    evaluated = tf.function(lambda: network(x, training=False))()
    close(evaluated, arrays["eval_after_1_forward/logits"], LOSS, precision, "evaluation")


@BOTH
def test_drop_path_with_given_masks_agrees(derived, precision):
    arrays, network, _ = derived
    p = float(arrays["droppath/p"])
    sites = [
        f"droppath/mask/cell{c}/op{o}"
        for c, cell in enumerate(network.cells)
        for o, droppable in enumerate(cell.droppable)
        if droppable
    ]
    assert set(sites) == {k for k in arrays if k.startswith("droppath/mask/")}
    keep = [tf.constant(arrays[site], precision) / (1 - p) for site in sites]
    x = tf.constant(arrays["x"], precision)
    logits = tf.function(lambda: network.forward(x, training=True, keep=keep).logits)()
    close(logits, arrays["droppath/logits"], LOSS, precision, "logits")
