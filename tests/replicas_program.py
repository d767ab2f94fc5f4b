"""Searches and trainings on a number of replicas, in float64, on logical CPUs of this machine.

    python -m tests.replicas_program REPLICAS|multi_worker RESULTS.npz [CASE ...]

A program of its own, because logical devices must be made before TensorFlow computes anything. Its
results are everything that the steps changed: weights, alphas, running statistics and hidden
states, both optimizers' variables, and the metrics; `compare` holds those of two runs together.
"""

import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

import darts_tf
from darts_tf.data import ArrayStream, PairedWindows, TrainWindows, evaluation_batches
from darts_tf.losses import token_cross_entropy
from darts_tf.networks.language import RecurrentEvaluationNetwork
from darts_tf.replicas import distribute
from darts_tf.training.distribution import Diverged, StopOnDivergence, is_chief, strategy_of

STEPS = 10
CLIP = 0.25
"""Below the gradients' norms, so that clipping is active."""

BOUND = 1e-12
"""Largest difference, relative to the largest value of a tensor, that counts as none."""

REGULARIZATION = darts_tf.Regularization(
    dropout=0.3, dropouth=0.25, dropoutx=0.2, dropouti=0.3, dropoute=0.1, alpha=0.5, beta=0.5
)
NO_REGULARIZATION = darts_tf.Regularization(
    dropout=0.0, dropouth=0.0, dropoutx=0.0, dropouti=0.0, dropoute=0.0, alpha=0.0, beta=0.0
)


def images(seed, count):
    """Random pictures of 3 classes."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 8, 8, 1)), random.integers(0, 3, count)


def search_cnn(order):
    """A search on batches of 8 examples, every second one of 5."""
    supernet = darts_tf.Supernet(
        3, 2, 3, 1, (8, 8, 1), primitives=("max_pool_3x3", "dil_conv_3x3", "skip_connect")
    )
    model = darts_tf.ArchitectureSearch(supernet, order)
    model.compile(
        # As published. At four times this rate the weights are so sensitive after ten steps that
        # another order of the rows of a batch, on one device, changes alphas by 1e-12 too.
        darts_tf.SGD(0.025, 0.9, 3e-3, CLIP),
        # Where an alpha hardly matters Adam's step is rounding over rounding; epsilon bounds that.
        darts_tf.Adam(0.01, l2=1e-3, epsilon=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model, darts_tf.pair(images(0, 13), images(1, 11), batch_size=8).stream()


def train_cnn():
    """A training with auxiliary head and drop path, on such batches."""
    genotype = darts_tf.Genotype(
        [[("skip_connect", 0), ("dil_conv_3x3", 1)]],
        [2],
        [[("max_pool_3x3", 0), ("sep_conv_3x3", 1)]],
        [2],
    )
    network = darts_tf.EvaluationNetwork(
        genotype, 3, 2, 3, auxiliary=True, image_shape=(8, 8, 1), seed=3
    )
    network.drop_path_prob.assign(0.3)
    model = darts_tf.ArchitectureEvaluation(network)
    model.compile(
        darts_tf.SGD(0.1, 0.9, 3e-3, CLIP),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model, ArrayStream(*images(0, 13), batch_size=8, seed=1).batches()


def words(count):
    """A random text."""
    return np.random.default_rng(4).integers(0, 11, count).astype(np.int32)


def search_rnn(order):
    """A search of a recurrent cell, with all dropouts and penalties, on windows of 5 rows."""
    supernet = darts_tf.RecurrentSupernet(
        11, 4, 5, 2, 2, regularization=REGULARIZATION, seed=3, jit_compile=False
    )
    model = darts_tf.ArchitectureSearch(supernet, order, clip_virtual_step=True)
    model.compile(
        darts_tf.SGD(0.5, 0.0, 3e-3, CLIP),
        darts_tf.Adam(0.01, 0.9, l2=1e-3, epsilon=1e-4),
        token_cross_entropy,
    )
    train = TrainWindows(words(300), 5, 4, 0, "search")
    return model, PairedWindows(train, words(100)).batches(0)


def train_rnn():
    """A training of a language model, whose iterates are averaged after half of the steps."""
    genotype = darts_tf.RecurrentGenotype([("tanh", 0), ("relu", 1)], [1, 2])
    network = RecurrentEvaluationNetwork(genotype, 11, 4, 5, 2, REGULARIZATION, seed=3)
    model = darts_tf.LanguageModelTraining(network)
    model.compile(darts_tf.AveragedSGD(2.0, 1e-3, CLIP))
    return model, TrainWindows(words(300), 5, 4, 0, "train").batches(0)


CASES = {f"search_cnn/{order}": (search_cnn, order) for order in ("first", "second_exact")}
CASES["search_cnn/second_fd"] = (search_cnn, "second_fd")
CASES["train_cnn"] = (train_cnn,)
CASES |= {
    f"search_rnn/{order}": (search_rnn, order) for order in ("first", "second_fd", "second_exact")
}
CASES["train_rnn"] = (train_rnn,)


def run(case, strategy):
    """What a case gives, by name."""
    keras.utils.set_random_seed(0)
    make, *arguments = CASES[case]
    with strategy.scope():
        found = make(*arguments)
    if isinstance(found, tuple):
        found = ten_steps(*found, strategy)
    return {f"{case}|{name}": np.asarray(value) for name, value in found.items()}


def ten_steps(model, batches, strategy):
    """Everything that ten steps change."""
    with strategy.scope():
        model.build_metrics(batches.element_spec)
    model.make_train_function()
    iterator = iter(distribute(strategy, batches))
    for number in range(STEPS):
        if number == STEPS // 2 and hasattr(model.optimizer, "start_averaging"):
            model.optimizer.start_averaging()
        results = model.train_function(iterator)
    return state_of(model) | {f"metrics/{name}": value for name, value in results.items()}


def state_of(model):
    """All variables of a model and its optimizers, which must be the same on every replica."""
    inner, found = getattr(model, "supernet", None) or model.network, {}
    for kind, variables in (
        ("alphas", getattr(inner, "architecture_parameters", [])),
        ("weights", inner.trainable_variables),
        ("state", inner.non_trainable_variables),
        ("slots", model.optimizer.variables),
        ("alpha slots", getattr(getattr(model, "arch_optimizer", None), "variables", [])),
    ):
        for index, variable in enumerate(variables):
            copies = model.distribute_strategy.experimental_local_results(variable.value)
            for copy in copies[1:]:
                np.testing.assert_array_equal(copy, copies[0], f"{kind}: replicas diverged")
            found[f"{kind}/{index}"] = copies[0]
    return found


def fit_search():
    """`fit` as a user writes it; the last batch of an epoch is smaller, and that of validation."""
    model, _ = search_cnn("first")
    pairing = darts_tf.pair(images(0, 13), images(1, 11), batch_size=8, seed=2)
    validation = evaluation_batches(*images(1, 9), 4)
    history = model.fit(pairing, validation_data=validation, epochs=2, verbose=0)
    metrics = {f"metrics/{name}": values for name, values in history.history.items()}
    return state_of(model) | metrics


def fit_training():
    """The same of a training, and of an evaluation before and after."""
    model, _ = train_cnn()
    stream = ArrayStream(*images(0, 13), batch_size=8, seed=1)
    batches = stream.batches().take(stream.steps_per_epoch)
    # Where Keras on one device does not know where the data ends, its optimizer counts that try.
    batches = batches.apply(tf.data.experimental.assert_cardinality(stream.steps_per_epoch))
    validation = evaluation_batches(*images(1, 9), 4)
    before = model.evaluate(validation, verbose=0)
    history = model.fit(batches, validation_data=validation, epochs=2, verbose=0)
    metrics = {f"metrics/{name}": values for name, values in history.history.items()}
    return state_of(model) | metrics | {"metrics/before": before}


def evaluate():
    """Loss and accuracy over 1 to 7 examples in batches of 4: every example counts once."""
    model, _ = train_cnn()
    found = {}
    for count in range(1, 8):
        results = model.evaluate(evaluation_batches(*images(5, count), 4), verbose=0)
        found[f"metrics/{count}"] = results
    return found


def local_statistics():
    """Without synchronised BatchNorm, where every part of a batch has the same four examples.

    Its statistics are then those of the batch all the same, but for the unbiased variance.
    """
    model, _ = train_cnn()
    model.network.drop_path_prob.assign(0.0)
    model.compile(
        darts_tf.SGD(0.1, 0.9, 3e-3, CLIP),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        sync_batch_norm=False,
    )
    x, y = images(0, 4)
    batches = tf.data.Dataset.from_tensors((np.tile(x, (6, 1, 1, 1)), np.tile(y, 6))).repeat()
    found = ten_steps(model, batches, model.distribute_strategy)
    return {name: value for name, value in found.items() if not name.startswith("state")}


def local_statistics_rnn():
    """The same of a recurrent search, where every part of a batch has the same two rows of text."""
    supernet = darts_tf.RecurrentSupernet(
        11, 4, 12, 2, 2, regularization=NO_REGULARIZATION, seed=3, jit_compile=False
    )
    model = darts_tf.ArchitectureSearch(supernet, "first")
    model.compile(
        darts_tf.SGD(0.5, 0.0, 3e-3, CLIP),
        darts_tf.Adam(0.01, 0.9, l2=1e-3, epsilon=1e-4),
        token_cross_entropy,
        sync_batch_norm=False,
    )
    text, validation = (np.tile(words(2 * length), 6) for length in (50, 40))
    train = TrainWindows(text, 12, 4, 0, "search")
    batches = PairedWindows(train, validation).batches(0)
    found = ten_steps(model, batches, model.distribute_strategy)
    return {name: value for name, value in found.items() if not name.startswith("state")}


def divergence():
    """What `StopOnDivergence` says of a copy of the alphas that differs in the last bit."""
    model, batches = search_cnn("first")
    guard = StopOnDivergence(every=2)
    guard.set_model(model)
    guard.on_epoch_begin(0)
    said = ""
    for step in range(6):
        if step == 3:
            copies = model.distribute_strategy.experimental_local_results(
                model.supernet.alphas_normal.value
            )
            value = copies[-1].numpy()
            value[0, 0] = np.nextafter(value[0, 0], 1)
            copies[-1].assign(value)
        try:
            guard.on_train_batch_end(step)
        except Diverged as error:
            said = str(error)
            break
    return {"said": said}


CASES |= {
    "fit_search": (fit_search,),
    "fit_training": (fit_training,),
    "evaluate": (evaluate,),
    "local_statistics": (local_statistics,),
    "local_statistics_rnn": (local_statistics_rnn,),
    "divergence": (divergence,),
}


def compare(one, other):
    """The largest difference of each kind, by case: |a - b| over the largest |a| of the tensor."""
    table = {}
    for name in one:
        if one[name].dtype.kind not in "fiu" or name not in other:
            continue
        case, kind = name.split("|")[0], name.split("|")[1].split("/")[0]
        a, b = one[name].astype(np.float64), other[name].astype(np.float64)
        difference = np.abs(a - b).max() / max(np.abs(a).max(), 1e-3)
        of_case = table.setdefault(case, {})
        of_case[kind] = max(of_case.get(kind, 0.0), difference)
    return table


def main(replicas, path, *cases):
    """Runs the cases; the first worker saves the results."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    several = replicas != "multi_worker" and int(replicas) > 1
    strategy = (
        strategy_of("mirrored", int(replicas))
        if several
        else strategy_of("one_device" if replicas == "1" else replicas)
    )
    results, begin = {}, time.perf_counter()
    for case in cases or CASES:
        results |= run(case, strategy)
        if is_chief(strategy):
            np.savez(path, **results)
        print(case, round(time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
