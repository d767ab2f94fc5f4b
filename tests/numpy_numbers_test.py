"""Every public argument that takes a number takes NumPy's, as Python's own; nothing else passes.

`num_classes=labels.max() + 1` is what people write. What is kept must be a plain number: an int8
would overflow, and a file of JSON would refuse it after an hour.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf import data, genotype
from darts_tf.errors import InputError, real_number, whole_number

RNN = genotype.zoo.genotype("DARTS_V1", "rnn")
CNN = genotype.Genotype([("skip_connect", 0), ("skip_connect", 1)], [2],
                        [("skip_connect", 0), ("skip_connect", 1)], [2])  # fmt: skip
TOKENS = np.arange(60) % 7
X, Y = np.zeros((8, 8, 8, 3), np.float32), np.arange(8) % 2
TINY = {"num_classes": 2, "init_channels": 2, "num_cells": 1, "image_shape": (8, 8, 3)}


def network(**changes):
    return darts_tf.EvaluationNetwork(CNN, **{**TINY, **changes})


def supernet(**changes):
    return darts_tf.Supernet(**{**TINY, "num_nodes": 1, **changes})


def language(**changes):
    arguments = {"vocabulary_size": 7, "width": 4, "batch_size": 2, "evaluation_batch_size": 1}
    return darts_tf.RecurrentEvaluationNetwork(RNN, **{**arguments, **changes})


def recurrent_supernet(**changes):
    arguments = {"vocabulary_size": 7, "width": 4, "batch_size": 2, "num_nodes": 1}
    return darts_tf.RecurrentSupernet(**{**arguments, **changes})


def streamed(**changes):
    arguments = {"num_examples": 8, "batch_size": 2, **changes}
    return data.StreamedImages(tf.data.Dataset.range(8), **arguments)


def size(n):
    return (n, n, 3)


# Of each integer: the call, and a value that it takes.
INTEGERS = {
    "EvaluationNetwork.num_classes": (lambda n: network(num_classes=n), 3),
    "EvaluationNetwork.init_channels": (lambda n: network(init_channels=n), 2),
    "EvaluationNetwork.num_cells": (lambda n: network(num_cells=n), 1),
    "EvaluationNetwork.seed": (lambda n: network(seed=n), 3),
    "EvaluationNetwork.image_shape": (lambda n: network(image_shape=size(n)), 8),
    "Supernet.num_classes": (lambda n: supernet(num_classes=n), 3),
    "Supernet.init_channels": (lambda n: supernet(init_channels=n), 2),
    "Supernet.num_cells": (lambda n: supernet(num_cells=n), 1),
    "Supernet.num_nodes": (lambda n: supernet(num_nodes=n), 1),
    "Supernet.image_shape": (lambda n: supernet(image_shape=size(n)), 8),
    "RecurrentEvaluationNetwork.vocabulary_size": (lambda n: language(vocabulary_size=n), 7),
    "RecurrentEvaluationNetwork.width": (lambda n: language(width=n), 4),
    "RecurrentEvaluationNetwork.batch_size": (lambda n: language(batch_size=n), 2),
    "RecurrentEvaluationNetwork.evaluation_batch_size": (
        lambda n: language(evaluation_batch_size=n),
        2,
    ),
    "RecurrentEvaluationNetwork.seed": (lambda n: language(seed=n), 2),
    "RecurrentSupernet.num_nodes": (lambda n: recurrent_supernet(num_nodes=n), 2),
    "RecurrentSupernet.width": (lambda n: recurrent_supernet(width=n), 4),
    "RecurrentSupernet.batch_size": (lambda n: recurrent_supernet(batch_size=n), 2),
    "RecurrentDerivedCell.width": (lambda n: darts_tf.RecurrentDerivedCell(RNN, n), 4),
    "Genotype.predecessor": (
        lambda n: genotype.Genotype([[("skip_connect", n)]], [2], CNN.reduce, [2]),
        1,
    ),
    "Genotype.concat": (lambda n: genotype.Genotype(CNN.normal, [n], CNN.reduce, [2]), 2),
    "RecurrentGenotype.concat": (lambda n: genotype.RecurrentGenotype(RNN.recurrent, [n]), 3),
    "derive.inputs_per_node": (
        lambda n: darts_tf.derive(np.zeros((5, 8)), np.zeros((5, 8)), inputs_per_node=n),
        2,
    ),
    "random_recurrent.seed": (lambda n: genotype.random_recurrent(n), 3),
    "random_recurrent.num_nodes": (lambda n: genotype.random_recurrent(0, n), 3),
    "num_edges": (lambda n: genotype.num_edges(n), 100),
    "edge_offset": (lambda n: genotype.edge_offset(n), 100),
    "num_nodes_of": (lambda n: genotype.num_nodes_of(n), 14),
    "parse_text.which": (lambda n: genotype.parse_text(CNN.to_text(), n), 0),
    "Augmentation.padding": (lambda n: darts_tf.Augmentation(padding=n), 2),
    "Augmentation.cutout": (lambda n: darts_tf.Augmentation(cutout=n), 2),
    "pair.batch_size": (lambda n: darts_tf.pair((X, Y), (X, Y), batch_size=n).train, 4),
    "pair.seed": (lambda n: darts_tf.pair((X, Y), (X, Y), batch_size=2, seed=n).train, 4),
    "Pairing.stream": (
        lambda n: darts_tf.pair((X, Y), (X, Y), batch_size=2).stream(n).element_spec,
        4,
    ),
    "ArrayStream.batch_size": (lambda n: data.ArrayStream(X, Y, n), 2),
    "ArrayStream.seed": (lambda n: data.ArrayStream(X, Y, 2, seed=n), 2),
    "evaluation_batches": (lambda n: data.evaluation_batches(X, Y, n).element_spec, 2),
    "load_images.limit": (lambda n: data.load_images("digits", limit=n).train_labels.tolist(), 12),
    "StreamedImages.batch_size": (lambda n: streamed(batch_size=n), 2),
    "StreamedImages.num_examples": (lambda n: streamed(num_examples=n), 8),
    "StreamedImages.image_size": (lambda n: streamed(image_size=n), 8),
    "StreamedImages.seed": (lambda n: streamed(seed=n), 8),
    "StreamedImages.shuffle_buffer": (lambda n: streamed(shuffle_buffer=n), 8),
    "TrainWindows.batch_size": (lambda n: data.TrainWindows(TOKENS, n), 2),
    "TrainWindows.bptt": (lambda n: data.TrainWindows(TOKENS, 2, n), 5),
    "TrainWindows.seed": (lambda n: data.TrainWindows(TOKENS, 2, seed=n), 5),
    "evaluation_windows.batch_size": (
        lambda n: len(list(data.evaluation_windows(TOKENS, n, 5))),
        2,
    ),
    "evaluation_windows.bptt": (lambda n: len(list(data.evaluation_windows(TOKENS, 2, n))), 5),
    "corpus_of.min_count": (
        lambda n: data.text.corpus_of("x", ["a"], ["a"], ["a"], "all", n).vocabulary.words,
        1,
    ),
    "DropPathSchedule.epochs": (lambda n: darts_tf.DropPathSchedule(0.2, n), 3),
    "AlphaHistory.first_epoch": (lambda n: darts_tf.AlphaHistory("x", n), 3),
    "Progress.epochs": (lambda n: darts_tf.Progress("x", n), 3),
    "StopOnNotFinite.window": (lambda n: darts_tf.StopOnNotFinite(n), 3),
    "cosine_schedule.epochs": (lambda n: darts_tf.cosine_schedule(1, 0, n)(1), 3),
}

# Of each real number: the call, and a value that NumPy's float32 has exactly.
REALS = {
    "SGD.learning_rate": (lambda x: darts_tf.SGD(x), 0.5),
    "SGD.momentum": (lambda x: darts_tf.SGD(momentum=x), 0.5),
    "SGD.l2": (lambda x: darts_tf.SGD(l2=x), 0.5),
    "SGD.clip_norm": (lambda x: darts_tf.SGD(clip_norm=x), 0.5),
    "Adam.learning_rate": (lambda x: darts_tf.Adam(x), 0.5),
    "Adam.beta_1": (lambda x: darts_tf.Adam(beta_1=x), 0.5),
    "Adam.beta_2": (lambda x: darts_tf.Adam(beta_2=x), 0.5),
    "Adam.epsilon": (lambda x: darts_tf.Adam(epsilon=x), 0.5),
    "Adam.l2": (lambda x: darts_tf.Adam(l2=x), 0.5),
    "AveragedSGD.learning_rate": (lambda x: darts_tf.AveragedSGD(x), 0.5),
    "cosine_schedule.initial": (lambda x: darts_tf.cosine_schedule(x, 0, 3)(1), 0.5),
    "cosine_schedule.final": (lambda x: darts_tf.cosine_schedule(1, x, 3)(1), 0.5),
    "exponential_schedule.initial": (lambda x: darts_tf.exponential_schedule(x, 0.5)(1), 0.5),
    "exponential_schedule.factor": (lambda x: darts_tf.exponential_schedule(1, x)(1), 0.5),
    "DropPathSchedule.largest": (lambda x: darts_tf.DropPathSchedule(x, 3), 0.5),
    "Progress.every": (lambda x: darts_tf.Progress("x", 3, x), 0.5),
    "ArchitectureEvaluation.auxiliary_weight": (
        lambda x: darts_tf.ArchitectureEvaluation(network(), x),
        0.5,
    ),
    "Regularization.dropout": (lambda x: darts_tf.Regularization(dropout=x), 0.5),
    "Regularization.alpha": (lambda x: darts_tf.Regularization(alpha=x), 0.5),
}


def kept(thing):
    """What a call keeps of a number, in a form that tells int from np.int64."""
    config = getattr(thing, "get_config", None)
    if config is not None:
        return json.dumps(config(), sort_keys=True)  # fails for a number of NumPy
    if hasattr(thing, "__dict__"):
        plain = {k: v for k, v in vars(thing).items() if isinstance(v, int | float | np.generic)}
        assert not any(isinstance(v, np.generic) for v in plain.values())
        return {k: v for k, v in plain.items() if not k.startswith("_")}
    assert not isinstance(thing, np.generic)
    return thing


@pytest.mark.parametrize("argument", INTEGERS)
def test_an_integer_may_be_numpys_and_is_kept_as_an_int(argument):
    call, value = INTEGERS[argument]
    wanted = kept(call(value))
    for given in (np.int64(value), np.uint8(value), np.array(value, np.int32)):
        if argument in ("Genotype.predecessor", "Genotype.concat", "RecurrentGenotype.concat"):
            given = np.int64(value)  # within lists of what may be anything
        assert kept(call(given)) == wanted
    for given in (True, np.True_, value + 0.0, np.float32(value), str(value), np.array([value])):
        if argument == "parse_text.which" and isinstance(given, str):
            continue
        with pytest.raises(InputError):
            call(given)


@pytest.mark.parametrize("argument", REALS)
def test_a_real_number_may_be_numpys_and_is_kept_as_a_float(argument):
    call, value = REALS[argument]
    wanted = kept(call(value))
    for given in (np.float32(value), np.float64(value), np.float16(value), np.array(value)):
        found = kept(call(given))
        assert found == wanted and not isinstance(found, np.generic)
    for given in (True, np.True_, "0.5", np.array([value]), [value], None, float("nan")):
        if argument == "SGD.clip_norm" and given is None:
            continue
        with pytest.raises(InputError):
            call(given)


def test_the_number_itself():
    for value in (5, np.int8(5), np.uint64(5), np.array(5), tf.constant(5)):
        assert type(whole_number("n", value)) is int and whole_number("n", value) == 5
    for value in (5, 5.0, np.float16(5), np.int64(5), np.array(5.0)):
        assert type(real_number("x", value)) is float and real_number("x", value) == 5.0
    with pytest.raises(InputError, match="n must be a whole number of 2 or more. Received: 1."):
        whole_number("n", 1, 2)
    with pytest.raises(InputError, match=r"x must be a number. Received: \[1\]."):
        real_number("x", [1])


def test_small_integers_do_not_overflow():
    labels = np.array([0, 1], np.uint8)
    assert genotype.num_edges(np.uint8(100)) == 100 * 2 + 100 * 99 // 2
    stream = data.ArrayStream(np.zeros((300, 2)), np.zeros(300), np.uint8(200))
    assert stream.steps_per_epoch == 2
    sizes = [len(y) for _, y in stream.batches(3).take(2)]
    assert sizes == [100, 200]
    made = network(num_classes=labels.max() + 1, image_shape=np.array(X.shape[1:], np.int8))
    assert made(X).shape == (8, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda n, x: network(num_classes=n(2), seed=n(3), image_shape=(n(8), n(8), n(3))),
        lambda n, x: supernet(num_classes=n(2), num_nodes=n(1), image_shape=[n(8), n(8), n(3)]),
        lambda n, x: language(width=n(4), regularization=darts_tf.Regularization(alpha=x(0.5))),
        lambda n, x: recurrent_supernet(width=n(4), num_nodes=n(1), seed=n(2)),
    ],
    ids=["network", "supernet", "language", "recurrent"],
)
def test_a_model_of_numpys_numbers_is_saved_and_loaded(make, tmp_path):
    model = make(np.int64, np.float32)
    assert model.get_config() == make(int, float).get_config()
    model.save(tmp_path / "model.keras")
    loaded = darts_tf.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for one, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_rates_of_numpys_numbers_drive_keras_scheduler():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(darts_tf.SGD(np.float32(0.5)), "mse")
    schedules = (
        darts_tf.cosine_schedule(np.float32(1), np.int64(0), np.int64(4)),
        darts_tf.exponential_schedule(1, 1),
    )
    for schedule in schedules:
        model.fit(
            np.ones((2, 1)), np.ones((2, 1)), epochs=2, verbose=0,
            callbacks=[keras.callbacks.LearningRateScheduler(schedule)],
        )  # fmt: skip
    assert float(model.optimizer.learning_rate.numpy()) == 1.0


def test_provenance_may_hold_numpys_numbers(tmp_path):
    found = {"seed": np.int64(3), "accuracy": np.float32(0.5), "best": {"epoch": np.array(7)}}
    genotype.save(CNN, tmp_path / "g.json", {**found, "done": np.True_})
    wanted = {"seed": 3, "accuracy": 0.5, "best": {"epoch": 7}, "done": True}
    assert genotype.load_provenance(tmp_path / "g.json") == wanted
