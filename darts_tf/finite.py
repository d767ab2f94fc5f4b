"""The first NaN or infinite value of a training step: recorded on the device, read on demand."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from darts_tf import replicas


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that a step computes.

    Attributes:
        name: What it is, such as "loss of the training batch".
        tensors: Its numbers; integers are always finite.
        rows: Which examples of the global batch they belong to, where their first axis is the
            batch; an example is named then.
        variables: Names and sizes of what the numbers belong to, in their order; see
            `variables_of`.
        decides: Whether it is looked at in every step. What is not finite spreads: a step whose
            data, losses, alphas and weights are finite is a good one, and its gradients are not
            looked at.
        advice: What to change when it is the first.
    """

    name: str
    tensors: Sequence[tf.Tensor]
    rows: replicas.Rows | None = None
    variables: Sequence[tuple[str, int]] = ()
    decides: bool = True
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """The first number that was not finite.

    Attributes:
        name: What it belongs to, as in `Check`.
        where: The variable, or None.
        example: The example's number in the global batch, or None.
        step: The number of steps that were done before, over all epochs.
        batch_size: The largest global training batch up to then.
        advice: What to change.
    """

    name: str
    where: str | None
    example: int | None
    step: int
    batch_size: int
    advice: str


OUTSIDE = (
    "They were changed between two steps: look at the callbacks, or at a file that was loaded."
)
EXAMPLE = "Repair that example, or leave it out."
LOSS = "Lower the learning rate of the weights, or clip their gradient harder."
GRADIENT = (
    "The loss is finite and its derivative is not: look for a division, root or logarithm of 0 "
    "there, and compute in float32."
)
WEIGHTS = "The step was too large: lower the learning rate of the weights or their momentum."
"""What to change: of variables, an example, a loss, a gradient, the weights after a step."""


def batch_checks(name: str, x, y, weight, rows: replicas.Rows) -> list[Check]:
    """The checks of a batch, inputs first.

    Args:
        name: "training" or "validation".
        x, y: Tensors, or structures of them, whose first axis is the batch.
        weight: Of each example, or None.
        rows: Those of this replica.
    """
    labels = [*tf.nest.flatten(y), *([] if weight is None else [weight])]
    return [
        Check(f"inputs of the {name} batch", tf.nest.flatten(x), rows, advice=EXAMPLE),
        Check(f"labels of the {name} batch", labels, rows, advice=EXAMPLE),
    ]


def step_checks(
    variables: Sequence[keras.Variable],
    began: Sequence[tf.Tensor],
    computed: Sequence[Check],
    gradients: Sequence[tf.Tensor],
) -> list[Check]:
    """The checks of a step of the weights, after it.

    Args:
        variables: The weights.
        began: Their values before the step.
        computed: The checks of what the gradients were computed from.
        gradients: One like each of the weights.
    """
    of_weights = {"variables": variables_of(variables)}
    return [
        Check(
            "weights with which the step began",
            began,
            **of_weights,
            decides=False,
            advice=OUTSIDE,
        ),
        *computed,
        Check("gradient of the weights", gradients, **of_weights, decides=False, advice=GRADIENT),
        Check(
            "weights",
            [tf.convert_to_tensor(v) for v in variables],
            **of_weights,
            advice=WEIGHTS,
        ),
    ]


def variables_of(variables: Sequence[keras.Variable]) -> list[tuple[str, int]]:
    """Names and sizes of variables, for a `Check` of what has one number for each of theirs."""
    return [(v.path, math.prod(v.shape)) for v in variables]


class FirstNotFinite:
    """Looks at what a model's steps compute, and remembers what was first not finite.

    A good step costs a pass over the weights. Each replica looks at its own examples and keeps a
    record of its own: nothing is exchanged, and nothing copied to the host, until `read`.
    """

    def __init__(self):
        # Step, check, number in it, and the largest batch.
        record = self._record = keras.Variable(
            np.array([-1, -1, -1, 0]),
            dtype="int64",
            trainable=False,
            aggregation="none",
            name="first_not_finite",
        )
        strategy = self._strategy = tf.distribute.get_strategy()
        self._of_all_replicas = tf.function(
            lambda: strategy.gather(
                strategy.run(lambda: tf.convert_to_tensor(record)[tf.newaxis]), axis=0
            ),
            autograph=False,
        )
        self._checks: list[Check] = []
        self._by_example: list[bool] = []

    def look(self, step: tf.Tensor, checks: Sequence[Check], rows: replicas.Rows) -> None:
        """Looks at a step; part of its graph.

        Args:
            step: The number of steps that were done before.
            checks: In the order in which they were computed.
            rows: Those of the training batch.
        """
        checks = [
            dataclasses.replace(c, tensors=floats)
            for c in checks
            if (floats := [t for t in map(tf.convert_to_tensor, c.tensors) if t.dtype.is_floating])
        ]
        # The tensors are of this trace; what is said of them is not.
        self._checks = [dataclasses.replace(c, tensors=(), rows=None) for c in checks]
        self._by_example = [c.rows is not None for c in checks]
        good = [tf.reduce_all(tf.math.is_finite(_vector(c.tensors))) for c in checks if c.decides]
        check, number = tf.cond(
            tf.reduce_all(good), lambda: (_none(), _none()), lambda: _first(checks)
        )
        old = tf.convert_to_tensor(self._record)
        first = (old[1] < 0) & (check >= 0)
        new = tf.where(first, tf.stack([tf.cast(step, tf.int64), check, number]), old[:3])
        largest = tf.maximum(old[3], tf.cast(rows.all, tf.int64))
        self._record.assign(tf.concat([new, [largest]], 0))

    def read(self) -> Found | None:
        """What was first, or None if all was finite. Of several workers all must ask together.

        What is not finite reaches the other replicas in what is computed after it: the first check
        is the smallest of any replica.
        """
        if self._strategy.num_replicas_in_sync == 1:
            records = keras.ops.convert_to_numpy(self._record)[np.newaxis]
        else:
            records = self._of_all_replicas().numpy()
        bad = [tuple(map(int, record)) for record in records if record[1] >= 0]
        if not bad:
            return None
        step, check, number, batch_size = min(bad)
        found = self._checks[check]
        where = example = None
        if self._by_example[check]:
            example = number
        elif found.variables:
            ends = np.cumsum([size for _, size in found.variables])
            where = found.variables[int(np.searchsorted(ends, number, "right"))][0]
        return Found(found.name, where, example, step, batch_size, found.advice)

    def forget(self) -> None:
        """Begins anew, as at the start of a training."""
        self._record.assign(np.array([-1, -1, -1, 0]))


def _none() -> tf.Tensor:
    return tf.constant(-1, tf.int64)


def _vector(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    flat = [tf.reshape(t, [-1]) for t in tensors]
    dtypes = {t.dtype for t in flat}
    if len(dtypes) > 1:  # whether it is finite survives the widest type
        flat = [tf.cast(t, tf.float64) for t in flat]
    return flat[0] if len(flat) == 1 else tf.concat(flat, 0)


def _bad(check: Check) -> tf.Tensor:
    """Whether each number, or each example, is not finite: (numbers,) or (examples,)."""
    if check.rows is None:
        return ~tf.math.is_finite(_vector(check.tensors))
    return tf.reduce_any(
        [
            tf.reduce_any(tf.reshape(~tf.math.is_finite(t), [tf.shape(t)[0], -1]), 1)
            for t in check.tensors
        ],
        0,
    )


def _first(checks: Sequence[Check]) -> tuple[tf.Tensor, tf.Tensor]:
    """The first check with a number that is not finite, and the first such number of it."""
    bad = [_bad(c) for c in checks]
    check = tf.argmax(tf.cast([tf.reduce_any(b) for b in bad], tf.int32))
    numbers = [
        tf.argmax(tf.cast(b, tf.int32)) + (tf.cast(c.rows.first, tf.int64) if c.rows else 0)
        for b, c in zip(bad, checks, strict=True)
    ]
    return check, tf.gather(numbers, check)
