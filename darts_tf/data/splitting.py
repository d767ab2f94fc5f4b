"""Halves and samples of labelled data that hold every class: drawn by class, with a fixed seed."""

import math
import sys
import warnings

import numpy as np
import tensorflow as tf

from darts_tf.data.arrays import checked_examples
from darts_tf.data.augmentation import checked_seed
from darts_tf.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray]

SPLITS = ("stratified", "published")
"""By class from a fixed seed; or the first ones as stored, as the authors do on CIFAR-10."""

_MOST_NAMED = 10
_WATCHED = 32


def split(
    x: np.ndarray, y: np.ndarray, train_portion: float = 0.5, seed: int = 0
) -> tuple[Arrays, Arrays]:
    """Divides examples by class at random: the halves of a search, for weights and alphas.

    Each class is divided by `train_portion` as nearly as its size allows: of two examples or more
    each half gets one, and a single one goes into the first half, as far as they have room.
    (scikit-learn's `train_test_split` refuses classes of one example.)

    Args:
        x: (N, ...).
        y: Labels (N,), or one-hot (N, classes).
        train_portion: The share of the first half, in (0, 1): floor(train_portion * N) examples.
        seed: 0 or more; the same seed, the same halves.

    Returns:
        ((x, y) for the weights, (x, y) for the architecture parameters), each in random order.

    Raises:
        InputError: Unusable arrays or seed, a portion outside (0, 1), or a half would be empty.
    """
    x, y = checked_examples("the data to split", x, y, as_images=False)
    count, seed = first_count(train_portion, len(x)), checked_seed(seed)
    order = _by_class(y, seed)
    # The order of `order` is by class; a half that is streamed as it is must not be.
    mixed = np.random.default_rng([seed, 1])
    first, rest = mixed.permutation(order[:count]), mixed.permutation(order[count:])
    return (x[first], y[first]), (x[rest], y[rest])


def sample(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Which examples to keep of many: int64 (count,), ascending, in the proportions of the classes.

    Args:
        labels: (N,) or one-hot (N, classes).
        count: How many; all if there are fewer. From the number of classes on, each class is there.
        seed: 0 or more. Of one seed, a smaller sample is part of a larger one.
    """
    return np.sort(_by_class(labels, seed)[:count])


def first_count(train_portion: float, examples: int) -> int:
    """How many examples the first half has: floor(train_portion * examples).

    Raises:
        InputError: The portion is outside (0, 1), or a half would be empty.
    """
    if not 0.0 < train_portion < 1.0:
        raise InputError(
            f"train_portion must lie between 0 and 1, both excluded; received {train_portion}."
        )
    count = math.floor(train_portion * examples)
    if count == 0 or count == examples:
        raise InputError(
            f"train_portion {train_portion} of {examples} training images leaves one part of the "
            "search empty: take more images or another portion."
        )
    return count


def check_halves(train: np.ndarray, valid: np.ndarray) -> None:
    """Looks whether two halves of a search hold the same classes.

    What does not look like classes passes: rows that do not sum to 1, or more than half as many
    different labels as there are examples.

    Args:
        train: Labels of the half for the weights, (N,) or one-hot (N, classes).
        valid: Labels of the half for the architecture parameters, likewise.

    Raises:
        InputError: The second has a class that the weights never see, or both hold one class only.
    """
    for labels in (train, valid):
        if labels.ndim == 2 and labels.shape[1] > 1 and not np.allclose(labels.sum(1), 1):
            return
    trained, validated = (set(np.unique(_classes(labels)).tolist()) for labels in (train, valid))
    classes = trained | validated
    if 2 * len(classes) > len(train) + len(valid):
        return
    remedy = (
        "Draw both halves by class, from enough examples: darts_tf.split, or --split=stratified of "
        "the programs."
    )
    if len(classes) == 1:
        raise InputError(
            f"train and valid hold one class only, {_named(classes)}: whatever is found, its "
            "accuracy is 1. Are the examples stored class by class, and were the first ones "
            f"taken? {remedy}"
        )
    if validated - trained:
        raise InputError(
            f"valid holds {_named(validated - trained)}, which train lacks: the weights never "
            f"learn what the architecture is judged by. {remedy}"
        )
    if trained - validated:
        warnings.warn(
            f"valid lacks {_named(trained - validated)}, which train holds: the architecture is "
            f"chosen without. {remedy}",
            stacklevel=3,
        )


def warn_of_absent(name: str, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Warns if the training images of a data set lack classes; they are named.

    Args:
        name: The data set.
        labels: (N,), 0..number of classes - 1.
        class_names: All classes, in the order of the labels.
    """
    absent = [class_names[number] for number in np.setdiff1d(np.arange(len(class_names)), labels)]
    if absent:
        warnings.warn(
            f"The {len(labels)} training images taken of data set {name!r} lack "
            f"{_named(absent)}: of {len(class_names)} classes {len(class_names) - len(absent)} "
            "can be learned.",
            stacklevel=3,
        )


def warn_if_by_class(name: str, labels: np.ndarray, num_classes: int, examples: int) -> None:
    """Warns if the first labels of a data set hold much fewer classes than in random order.

    Expected are K (1 - (1 - 1/K)^n) of K balanced classes in n examples; a quarter of that is what
    no usual imbalance explains.

    Args:
        name: The data set.
        labels: (n,), as they are read.
        num_classes: K.
        examples: How many the data set has.
    """
    found = len(np.unique(labels))
    if found < num_classes * (1 - (1 - 1 / num_classes) ** len(labels)) / 4:
        warnings.warn(
            f"The first {len(labels)} of {examples:,} training images of {name!r} hold {found} of "
            f"{num_classes} classes: the set seems to be stored class by class, and the buffer "
            "through which it is shuffled is smaller than it is. Prepare it again in random order.",
            stacklevel=3,
        )


def watched(dataset: tf.data.Dataset, name: str) -> tf.data.Dataset:
    """The data set, which says so on the standard error if it seems to be stored class by class.

    That is, if its first 32 examples are all of one class, of which two balanced classes in random
    order have a chance of 5e-10. Labels (batch,), (batch, 1), or one-hot of floating point are
    looked at.

    Args:
        dataset: Batches (inputs, labels, ...).
        name: What the warning calls it.
    """
    spec = dataset.element_spec[1]
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank not in (1, 2):
        return dataset
    wide = spec.shape.rank == 2 and spec.shape[1] != 1
    if not (spec.dtype.is_floating or (spec.dtype.is_integer and not wide)):
        return dataset

    def look(state, batch):
        seen, low, high = state
        labels = tf.argmax(batch[1], 1) if wide else batch[1]
        labels = tf.cast(tf.reshape(labels, [-1]), tf.float64)
        total = seen + tf.size(labels)
        low = tf.minimum(low, tf.reduce_min(labels))
        high = tf.maximum(high, tf.reduce_max(labels))
        say = (seen < _WATCHED) & (total >= _WATCHED) & tf.equal(low, high)
        # In the graph, so that no Python is called for any batch.
        tf.cond(say, lambda: _say_by_class(name, total, tf.cast(low, tf.int64)), tf.no_op)
        return (tf.minimum(total, _WATCHED), low, high), batch

    limits = (tf.constant(np.inf, tf.float64), tf.constant(-np.inf, tf.float64))
    return dataset.scan((tf.constant(0), *limits), look)


def _say_by_class(name: str, seen: tf.Tensor, label: tf.Tensor) -> tf.Operation:
    said = (
        f"warning: the first {{}} examples of {name} are all of class {{}}. If they are stored "
        "class by class, so are the batches: shuffle with a buffer as large as the data set, "
        "before batching."
    )
    return tf.print(tf.strings.format(said, (seen, label)), output_stream=sys.stderr)


def _by_class(labels: np.ndarray, seed: int) -> np.ndarray:
    """All indices, so ordered that every beginning holds the classes in their proportions.

    Of a class of n examples the one drawn as number r, from 0, stands at r / (n - 1) of the way:
    the first of each class at the very beginning, the last at the very end.
    """
    generator = np.random.default_rng([seed, 0])
    drawn = generator.permutation(len(labels))
    _, classes, counts = np.unique(_classes(labels)[drawn], return_inverse=True, return_counts=True)
    together = np.argsort(classes, kind="stable")
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = rank / np.maximum(np.repeat(counts, counts) - 1, 1)
    # lexsort by the place, ties at random: which classes come first must not be by their number.
    return drawn[together[np.lexsort((generator.random(len(labels)), place))]]


def _classes(labels: np.ndarray) -> np.ndarray:
    """(N,): the labels, or where the largest entry of each row is."""
    if labels.ndim == 1:
        return labels
    return labels.argmax(1) if labels.shape[1] > 1 else labels[:, 0]


def _named(classes) -> str:
    classes = sorted(classes)
    shown = ", ".join(map(str, classes[:_MOST_NAMED]))
    more = f" and {len(classes) - _MOST_NAMED} more" if len(classes) > _MOST_NAMED else ""
    return f"the class{'es' * (len(classes) > 1)} {shown}{more}"
