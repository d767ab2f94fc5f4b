"""What comes with the inputs of a batch: labels in range, and the weights of classes."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.losses import BatchLoss

MARK = "darts_tf: "
"""Begins what a graph says to the user; `said` finds it in TensorFlow's error."""


def check_labels(labels: np.ndarray, classes: int, what: str, ignored: int | None = None) -> None:
    """Checks that class numbers are in range.

    Args:
        labels: (N, ...).
        classes: Their number.
        what: What the error calls the data.
        ignored: A further label that is allowed, or None.

    Raises:
        InputError: Naming the first that is not.
    """
    labels = np.asarray(labels)
    bad = (labels < 0) | (labels >= classes)
    bad &= True if ignored is None else labels != ignored
    if bad.any():
        first = np.argwhere(bad)[0]
        raise InputError(
            f"Label {labels[tuple(first)]} of example {first[0]} of the {what} is out of range. "
            + _expected(classes)
        )


def checked_labels(number, y: tf.Tensor, classes: int, what: str, ignored: int | None = None):
    """The same labels, in a data set's graph, which fails where one of them is out of range.

    Args:
        number: The number of the batch, from 0.
        y: (batch, ...).
        classes, what, ignored: As for `check_labels`.
    """
    bad = (y < 0) | (y >= classes)
    if ignored is not None:
        bad &= y != ignored

    def fail():
        first = tf.where(bad)[0]
        text = tf.strings.format(
            f"{MARK}Label {{}} of example {{}} of batch {{}} of the {what} (both counted from 0) "
            f"is out of range. {_expected(classes)}",
            (tf.gather_nd(y, first), first[0], number),
        )
        with tf.control_dependencies([tf.debugging.Assert(False, [text])]):
            return tf.identity(y)

    return tf.cond(tf.reduce_any(bad), fail, lambda: y)


def _expected(classes: int) -> str:
    return (
        f"Expected 0 to {classes - 1}, as the network has {classes} outputs: number the classes "
        "from 0, or build the network with as many outputs as there are classes."
    )


def said(error: Exception) -> str | None:
    """What a graph said to the user, of an error of TensorFlow; None if it is another error."""
    found = re.search(rf"\[{MARK}(.*?)\]", str(error), re.DOTALL)
    if found:
        return found[1]
    found = re.search(
        r"Received a label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)",
        str(error),
    )
    return f"Label {found[1]} is out of range. {_expected(int(found[2]))}" if found else None


def class_table(class_weight: Mapping[int, float], classes: int) -> np.ndarray:
    """The weight of each class, (classes,) float32; 1 of those that are not named, as in Keras.

    Args:
        class_weight: Weights, 0 or more, by class number.
        classes: Number of classes.

    Raises:
        InputError: No such mapping, a class that does not exist, or no such weight.
    """
    if not isinstance(class_weight, Mapping):
        raise InputError(
            "class_weight must map class numbers to weights, such as {0: 1.0, 1: 2.5}. Received: "
            f"{class_weight!r}."
        )
    table = np.ones(classes, np.float32)
    for number, weight in class_weight.items():
        if isinstance(number, bool) or number not in range(classes):
            raise InputError(
                f"class_weight names the class {number!r}; expected integers from 0 to "
                f"{classes - 1}, as the network's outputs have it."
            )
        if not isinstance(weight, (int, float, np.number)) or not 0 <= weight < math.inf:
            raise InputError(
                f"class_weight must be 0 or more and finite. Received: {weight!r} for class "
                f"{number}."
            )
        table[int(number)] = weight
    return table


def balanced(labels: np.ndarray, classes: int) -> dict[int, float]:
    """Weights under which all classes count alike: N / (classes present * N of the class).

    The mean weight over the labels is 1, as scikit-learn's "balanced".

    Args:
        labels: (N,) class numbers.
        classes: Number of classes; those without a label have weight 1.
    """
    counts = np.bincount(labels, minlength=classes)
    present = np.flatnonzero(counts)
    return {int(c): len(labels) / (len(present) * int(counts[c])) for c in present}


def classes_of(y, outputs: Sequence[int | None]):
    """The class of each label, of class numbers, one-hot labels, or 0 and 1 for a single output.

    Args:
        y: (batch, ...), a tensor or array.
        outputs: Shape of the outputs.

    Returns:
        int32, with the shape of the weights.

    Raises:
        InputError: Neither of these.
    """
    shape, outputs = tuple(y.shape), tuple(outputs)
    if len(shape) == len(outputs) and shape[-1] == outputs[-1] > 1:
        return tf.argmax(y, -1, tf.int32)
    if len(shape) == len(outputs) and shape[-1] == 1:
        return tf.cast(tf.round(y[..., 0]), tf.int32)
    if len(shape) == len(outputs) - 1:
        return tf.cast(tf.round(y), tf.int32)
    raise InputError(
        "class_weight needs class numbers (batch,) or one-hot labels (batch, classes). Received "
        f"labels of shape {shape} for outputs of shape {outputs}."
    )


@dataclasses.dataclass(frozen=True)
class Examiner:
    """Looks at the labels of batches that are known to fit the loss, and weighs their classes.

    Attributes:
        loss: The `darts_tf.losses.BatchLoss`.
        outputs: Shape of the network's outputs.
        what: What the errors call the data.
        table: The weight of each class, or None.
    """

    loss: BatchLoss
    outputs: tuple[int | None, ...]
    what: str
    table: np.ndarray | None

    @classmethod
    def of(cls, spec, loss: BatchLoss, outputs_shape, what: str, class_weight) -> "Examiner | None":
        """That of batches like `spec`; None where there is nothing to do.

        Raises:
            InputError: The batches do not fit the loss, or the weights of the classes them.
        """
        x, y, weight = keras.utils.unpack_x_y_sample_weight(spec)
        try:
            outputs = outputs_shape((1, *x.shape[1:]))
        except (NotImplementedError, AttributeError, ValueError) as error:
            if class_weight is None:
                return None  # the user's network does not tell
            raise InputError("class_weight needs a network with compute_output_shape.") from error
        loss.check(y, outputs, weight, what)
        if class_weight is None:
            return cls(loss, outputs, what, None) if loss.takes_classes else None
        if weight is not None:
            raise InputError(
                f"The {what} has weights of its own: multiply them by those of the classes, and "
                "leave class_weight out."
            )
        classes_of(tf.zeros([1 if n is None else n for n in y.shape]), outputs)
        table = class_table(class_weight, max(outputs[-1], 2))
        return cls(loss, outputs, what, table)

    def of_arrays(self, y: np.ndarray, weight: np.ndarray | None) -> tuple:
        """The labels and weights of arrays."""
        if self.loss.takes_classes:
            check_labels(y, self.outputs[-1], self.what, self.loss.ignored)
        return y, weight if self.table is None else self.table[classes_of(y, self.outputs)]

    def of_batch(self, number: tf.Tensor, batch: tuple) -> tuple:
        """A batch of a data set, in its graph."""
        x, y, *weight = batch
        if self.loss.takes_classes:
            y = checked_labels(number, y, self.outputs[-1], self.what, self.loss.ignored)
        if self.table is not None:
            weight = [tf.gather(tf.constant(self.table), classes_of(y, self.outputs))]
        return x, y, *weight


def examined(data, loss: BatchLoss, outputs_shape, what: Sequence[str], class_weight=None) -> tuple:
    """Data of which the labels fit the loss and are in range, with the weights of the classes.

    Args:
        data: (inputs, labels or None, weights or None); or a data set in the place of the inputs,
            whose labels are looked at when they come.
        loss: What is computed of it.
        outputs_shape: A function of the shape of the inputs to that of the outputs.
        what: What the errors call the parts of an element of the data set: it is a batch if there
            is one part, else a tuple of batches.
        class_weight: Weight by class number, or None.

    Returns:
        The same three.

    Raises:
        InputError: It does not fit.
    """
    x, y, weight = data
    of = functools.partial(
        Examiner.of, loss=loss, outputs_shape=outputs_shape, class_weight=class_weight
    )
    if isinstance(x, tf.data.Dataset):
        single = len(what) == 1
        specs = (x.element_spec,) if single else x.element_spec
        parts = [of(spec, what=name) for spec, name in zip(specs, what, strict=True)]
        if not any(parts):
            return data

        def look(number, *element):
            (element,) = element if len(element) == 1 else (element,)
            batches = [
                part.of_batch(number, batch) if part else batch
                for part, batch in zip(parts, (element,) if single else element, strict=True)
            ]
            return batches[0] if single else tuple(batches)

        return x.enumerate().map(look), y, weight
    if hasattr(x, "shape") and hasattr(y, "shape"):
        specs = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in data if a is not None]
        part = of(tuple(specs), what=what[0])
        return (x, *part.of_arrays(y, weight)) if part else data
    if class_weight is not None:
        raise InputError(
            "class_weight needs arrays or a tf.data.Dataset of (inputs, labels). Received: "
            f"{type(x).__name__}."
        )
    return data
