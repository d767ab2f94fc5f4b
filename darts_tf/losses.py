"""Losses as Keras means them, reduced over the global batch: one way for search and training."""

import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from darts_tf import collective
from darts_tf.errors import InputError, unknown_name

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum")
"""Those that give one number to minimise."""

_OF_PROBABILITIES = (
    *("kldivergence", "poisson", "dice", "tversky"),
    "categoricalgeneralizedcrossentropy",
)
_OF_OTHER_LABELS = ("ctc", "circle", "categoricalgeneralizedcrossentropy")
"""Names of Keras' losses, in small letters, that need probabilities, and of those whose labels need
not have the shape of the outputs."""


def label_smoothed_cross_entropy(smoothing: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Cross-entropy against (1 - smoothing) * onehot + smoothing / classes.

    Args:
        smoothing: In [0, 1); 0.1 as published for ImageNet.

    Returns:
        A function of labels (batch,) and logits (batch, classes) to losses (batch,).
    """

    return _LabelSmoothedCrossEntropy(smoothing)


@keras.saving.register_keras_serializable(package="darts_tf")
@dataclasses.dataclass(frozen=True)
class _LabelSmoothedCrossEntropy:
    """The function of `label_smoothed_cross_entropy`, which a saved model names."""

    smoothing: float
    takes_classes = True

    def __call__(self, labels, logits):
        targets = tf.one_hot(tf.reshape(labels, [-1]), logits.shape[-1], dtype=logits.dtype)
        return keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=self.smoothing
        )

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def token_cross_entropy(words: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The negative log-likelihood of each word.

    Args:
        words: (batch, time), integers.
        logits: (batch, time, vocabulary).

    Returns:
        (batch, time).
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=words, logits=logits)


class Reduced(NamedTuple):
    """The losses of this replica's part of a batch, and what they come to.

    Attributes:
        losses: Each times its weight; (batch, ...), or () of a loss that returns the mean.
        total: This replica's summand of the numerator, ().
        divisor: This replica's summand of the denominator, ().
    """

    losses: tf.Tensor
    total: tf.Tensor
    divisor: tf.Tensor

    def share(self, reduce: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """This replica's share of the loss of the global batch; 0 where the denominator is 0.

        Args:
            reduce: Sums over the replicas.
        """
        return tf.math.divide_no_nan(self.total, reduce(self.divisor))

    def add_to(self, mean: keras.metrics.Mean) -> None:
        """Adds to the mean over all batches and replicas: all numerators by all denominators."""
        mean.update_state(tf.math.divide_no_nan(self.total, self.divisor), self.divisor)


class BatchLoss:
    """A Keras loss of a global batch that several replicas share.

    It follows `keras.losses.Loss.__call__`. With losses l and weights w of the examples,

        sum_over_batch_size, mean    sum(w l) / number of losses
        mean_with_sample_weight      sum(w l) / sum(w);  0 if all weights are 0
        sum                          sum(w l)

    where a loss that Keras masks (`ignore_class`) does not count in the number. A weight (batch,)
    or (batch, 1) is that of all losses of its example, (batch, time) of a recurrent network say; it
    counts in sum(w) for each of them. (Keras counts it once there, and takes (batch,) for (time,).)
    An `evaluate` divides all numerators by all denominators of the data set; with "sum" it gives
    the mean of the batches' sums.

    A batch whose weights are all 0 has loss 0 and gradient 0.

    Args:
        loss: A `keras.losses.Loss`, its class, configuration or name; or a function (y, outputs) ->
            losses (batch, ...), or their mean (): then there are no weights. A function has Keras'
            default reduction, sum_over_batch_size.
        logits: Whether the outputs are known to be logits. A name or function of Keras is then
            taken with `from_logits=True`, with a warning; an object with `from_logits=False` is
            refused, and so is what takes probabilities only.

    Attributes:
        name: What the errors call it.
        takes_classes: Whether the labels are class numbers, as for the sparse cross-entropy.
        ignored: The label that does not count, or None.

    Raises:
        InputError: The loss is unknown, several, has reduction "none", or takes probabilities where
            the outputs are logits.
    """

    def __init__(self, loss: Any, logits: bool = False):
        loss, chosen = _resolved(loss)
        self.name = getattr(loss, "__name__", type(loss).__name__)
        self.reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if self.reduction not in REDUCTIONS:
            raise InputError(
                f"The loss {self.name} has reduction={self.reduction!r}, which gives no number to "
                f"minimise. Expected one of {', '.join(REDUCTIONS)}: leave `reduction` out for "
                "the first."
            )
        self.takes_classes = (
            isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
            or loss in (keras.losses.sparse_categorical_crossentropy, token_cross_entropy)
            or loss is tf.nn.sparse_softmax_cross_entropy_with_logits
            or getattr(loss, "takes_classes", False)
        )
        self.ignored = getattr(loss, "ignore_class", None)
        own = loss if isinstance(loss, keras.losses.Loss) else None
        # Those of Keras compare number by number, but for a few.
        self._elementwise = (
            _of_keras(loss)
            and not self.takes_classes
            and self.name.lower().replace("_", "") not in _OF_OTHER_LABELS
        )
        function = loss if own is None else own.call
        self._function = _from_logits(loss, function, self.name, chosen) if logits else function

    def __call__(self, y, outputs, weight=None) -> Reduced:
        """The losses of labels and outputs, reduced.

        Args:
            y: Labels (batch, ...).
            outputs: (batch, ...); half precision is widened to float32.
            weight: Of the examples, or None.

        Raises:
            InputError: A weight that does not fit the losses.
        """
        outputs, mask = tf.convert_to_tensor(outputs), _mask(outputs)
        if outputs.dtype in (tf.bfloat16, tf.float16):
            outputs = tf.cast(outputs, tf.float32)
        losses = tf.convert_to_tensor(self._function(_aligned(y, outputs), outputs))
        if losses.shape.rank == 0:
            return self._of_one_number(losses, y, weight)
        masks = [_like(m, losses, "mask") for m in (mask, _mask(losses)) if m is not None]
        weights = masks if weight is None else [*masks, _like(weight, losses, "weight")]
        losses = math.prod(weights, start=losses)
        if self.reduction == "sum":
            divisor = tf.constant(1 / collective.count(), losses.dtype)
        elif self.reduction == "mean_with_sample_weight" and weights:
            divisor = tf.reduce_sum(math.prod(weights))
        elif masks:
            divisor = tf.reduce_sum(math.prod(masks))
        else:
            divisor = tf.cast(tf.size(losses), losses.dtype)
        return Reduced(losses, tf.reduce_sum(losses), divisor)

    def _of_one_number(self, loss, y, weight) -> Reduced:
        if weight is not None:
            raise InputError(
                f"The loss {self.name} returns one number for the batch, in which examples cannot "
                "be weighted: have it return one loss for each example, or leave the weights out."
            )
        if self.reduction == "sum":
            return Reduced(loss, loss, tf.constant(1 / collective.count(), loss.dtype))
        examples = tf.cast(tf.shape(y)[0], loss.dtype)
        # A replica's part may have no example.
        return Reduced(loss, tf.math.multiply_no_nan(loss, examples), examples)

    def check(self, y, outputs, weight=None, what: str = "data") -> None:
        """Checks that batches fit the loss, before anything is traced.

        Args:
            y: What the labels are, a `tf.TensorSpec`.
            outputs: Shape of the network's outputs; any batch.
            weight: What the weights are, or None.
            what: What the errors call the data.

        Raises:
            InputError: Naming what was received and the remedy.
        """
        if not hasattr(y, "shape"):
            raise InputError(
                f"The {what} must have one tensor of labels: (inputs, labels) or (inputs, labels, "
                f"weights of the examples). Received as labels: {y}."
            )
        shapes = [y.shape, *([] if weight is None else [weight.shape])]
        if any(tf.TensorShape(shape).rank is None for shape in shapes):
            raise InputError(
                f"The labels and weights of the {what} must have a known number of axes; received "
                "a data set that does not know it: set it with tf.ensure_shape in its map."
            )
        self._check_labels(y, outputs, what)
        known = {n for shape in (*shapes, outputs) for n in tuple(shape)[1:]}
        # A batch as large as no other axis, so that nothing fits by chance.
        batch, unknown = [n for n in range(2, 20) if n not in known][:2]

        def zeros(shape, dtype):
            inner = [unknown if n is None else n for n in tuple(shape)[1:]]
            return tf.zeros([batch, *inner] if len(shape) else [], dtype)

        weight = None if weight is None else zeros(weight.shape, weight.dtype)
        try:
            given = zeros(y.shape, y.dtype), zeros(outputs, keras.config.floatx())
            losses = self(*given, weight).losses
        except InputError:
            raise
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise InputError(
                f"The loss {self.name} cannot be computed from labels of shape "
                f"{_text(y.shape)}, {tf.as_dtype(y.dtype).name}, of the {what} and outputs of "
                f"shape {_text(outputs)}: {str(error).splitlines()[0]}"
            ) from error
        if losses.shape.rank and losses.shape[0] != batch:
            raise InputError(
                f"The loss {self.name} must return one loss for each example, (batch, ...), or "
                f"their mean, (). For a batch of {batch} it returns the shape {losses.shape}."
            )

    def _check_labels(self, y, outputs, what):
        shape, outputs = tuple(y.shape), tuple(outputs)
        classes = len(shape) == len(outputs) - 1 or (
            len(shape) == len(outputs) and shape[-1] == 1 != outputs[-1]
        )
        received = f"the labels of the {what} have shape {_text(shape)}, the outputs "
        received += _text(outputs)
        if self.takes_classes and not classes and outputs[-1] != 1:
            remedy = ""
            if shape[1:] == outputs[1:]:
                remedy = (
                    " For one-hot labels take keras.losses.CategoricalCrossentropy("
                    "from_logits=True), or give np.argmax(labels, -1)."
                )
            raise InputError(
                f"The loss {self.name} takes class numbers, one for each row of outputs; "
                f"{received}.{remedy}"
            )
        alike = tf.TensorShape(shape[1:]).is_compatible_with(outputs[1:])
        if self._elementwise and outputs[-1] != 1 and not alike:
            remedy = ""
            if classes:
                remedy = (
                    " For class numbers take keras.losses.SparseCategoricalCrossentropy("
                    "from_logits=True), or give keras.utils.to_categorical(labels)."
                )
            raise InputError(
                f"The loss {self.name} takes a label for each output, such as one-hot labels; "
                f"{received}.{remedy}"
            )


def update_loss(metric: keras.metrics.Mean, share, y, rows) -> None:
    """Adds the loss of a training batch to its mean over the batches, by their sizes, as Keras.

    Args:
        metric: The mean.
        share: This replica's share of the loss of the global batch.
        y: The labels of this replica.
        rows: The `darts_tf.replicas.Rows` of this replica.
    """
    own, of_all = (tf.cast(number, share.dtype) for number in (rows.own, rows.all))
    metric.update_state(share * (of_all / own), sample_weight=tf.cast(tf.size(y), share.dtype))


def _resolved(loss) -> tuple[Any, bool]:
    """A `Loss` or function, and whether the user has made it: then its settings are meant."""
    if loss is None or isinstance(loss, (list, tuple)):
        raise InputError(
            "compile() needs one loss: the name of a Keras loss, a keras.losses.Loss or a function "
            f"(y, outputs) -> losses. Received: {loss!r}."
        )
    made = not isinstance(loss, str) and not inspect.isclass(loss)
    if isinstance(loss, str):
        loss = keras.saving.get_registered_object(loss) or loss
    if isinstance(loss, dict) and "class_name" not in loss:
        raise InputError(f"compile() takes one loss, of one output. Received: {loss!r}.")
    try:
        found = keras.losses.get(loss)
    except ValueError as error:
        if isinstance(loss, str):
            known = (n for n in dir(keras.losses) if n not in ("Loss", "get", "serialize"))
            known = (n for n in known if n[0] != "_" and n != "deserialize")
            raise unknown_name("loss", loss, known) from error
        raise InputError(f"compile() cannot take this as a loss: {loss!r}.") from error
    return found, made and isinstance(found, keras.losses.Loss)


def _of_keras(loss) -> bool:
    return (getattr(loss, "__module__", None) or "").split(".")[0] == "keras"


def _from_logits(loss, function, name: str, chosen: bool):
    """The function of a loss that takes logits."""
    keras_own = _of_keras(loss)
    if keras_own and name.lower().replace("_", "") in _OF_PROBABILITIES:
        raise InputError(
            f"The loss {name} takes probabilities, but the network returns logits: take "
            "keras.losses.CategoricalCrossentropy(from_logits=True)."
        )
    if getattr(loss, "from_logits", None) is False:
        if chosen:
            raise InputError(
                f"The loss {name} has from_logits=False and takes probabilities, but the network "
                f"returns logits: make it with {name}(from_logits=True)."
            )
        loss = type(loss)(from_logits=True)
        function = loss.call
    elif keras_own and inspect.isfunction(loss):
        if "from_logits" not in inspect.signature(loss).parameters:
            return function
        function = functools.partial(loss, from_logits=True)
    else:
        return function
    warnings.warn(
        f"The network returns logits: the loss {name} is computed with from_logits=True.",
        stacklevel=4,
    )
    return function


def _aligned(y, outputs: tf.Tensor) -> tf.Tensor:
    """Labels of the outputs' rank where Keras aligns them, and of their type where they are alike.

    Class numbers stay integers.
    """
    y = tf.convert_to_tensor(y)
    rank, of_outputs = y.shape.rank, outputs.shape.rank
    if rank == of_outputs - 1 and outputs.shape[-1] == 1:
        y = y[..., tf.newaxis]
    elif rank == of_outputs + 1 and y.shape[-1] == 1:
        y = tf.squeeze(y, -1)
    alike = y.shape.rank == of_outputs and (y.shape[-1] == outputs.shape[-1])
    return tf.cast(y, outputs.dtype) if alike else y


def _like(values, losses: tf.Tensor, what: str) -> tf.Tensor:
    """Weights or a mask, one for each of the losses, of which an example may have several."""
    values = tf.cast(values, losses.dtype)
    given = values.shape
    while values.shape.rank and values.shape.rank > 1 and values.shape[-1] == 1:
        values = tf.squeeze(values, -1)
    rank = values.shape.rank
    if (
        not rank
        or rank > losses.shape.rank
        or not values.shape.is_compatible_with(losses.shape[:rank])
    ):
        raise InputError(
            f"The {what}s have shape {_text(given)}, the losses {_text(losses.shape)}: expected "
            f"one {what} for each example, (batch,), or one for each of the losses."
        )
    for _ in range(losses.shape.rank - rank):
        values = values[..., tf.newaxis]
    return tf.broadcast_to(values, tf.shape(losses))


def _mask(tensor):
    return getattr(tensor, "_keras_mask", None)


def _text(shape) -> str:
    return f"({', '.join(['batch', *('any' if n is None else str(n) for n in tuple(shape)[1:])])})"
