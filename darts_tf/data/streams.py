"""Streams of batches that are functions of (seed, step): they continue at any step, exactly.

An epoch is a permutation computed from (seed, epoch), an augmentation from (seed, position of the
example in the stream). No state needs saving, and starting at step k costs no more than starting at
0.
"""

import dataclasses
from typing import Literal

import numpy as np
import tensorflow as tf

from darts_tf.data.arrays import checked_examples, checked_weights
from darts_tf.data.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    augment,
    checked_seed,
    example_seeds,
)
from darts_tf.data.splitting import watched
from darts_tf.errors import InputError, unknown_name, whole_number

_REMAINDERS = ("keep", "drop", "carry")


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayStream:
    """An endless, shuffled and augmented stream of batches over arrays.

    Attributes:
        images: (N, H, W, C) on any scale; without augmentation (N, ...) of any numbers, which pass
            unchanged.
        labels: Integers (N,), delivered as int32, or (N, K) of any numbers, delivered unchanged.
        batch_size: Examples in a batch, 1..N.
        seed: 0 or more.
        augmentation: What is done to each image, each time anew; None for nothing.
        remainder: What happens when the batch size does not divide N. "keep": the last batch of an
            epoch is smaller, as published (25,000 images: 391 batches of 64, the last with 40).
            "drop": it is left out. "carry": it is filled with the first examples of the next
            permutation, so that all batches are full and every example still comes exactly once in
            each sweep.
        name: What the errors call the data.
        weights: Of the examples, (N,) or like the labels, 0 or more, delivered as float32 behind
            the labels; None for batches without.

    Raises:
        InputError: Unusable arrays (see `checked_examples`), batch size, seed, remainder or
            augmentation.
    """

    images: np.ndarray
    labels: np.ndarray
    batch_size: int
    seed: int = 0
    augmentation: Augmentation | None = None
    remainder: Literal["keep", "drop", "carry"] = "keep"
    name: str = "data"
    weights: np.ndarray | None = None

    def __post_init__(self):
        as_images = self.augmentation not in (None, NO_AUGMENTATION)
        images, labels = checked_examples(self.name, self.images, self.labels, as_images)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        if as_images:
            self.augmentation.check_size(images.shape[1:])
            if self.augmentation.cutout and self.augmentation.fill is None:
                mean = tuple(images.mean((0, 1, 2), dtype=np.float64).tolist())
                filled = dataclasses.replace(self.augmentation, fill=mean)
                object.__setattr__(self, "augmentation", filled)
        if self.weights is not None:
            weights = checked_weights(self.name, self.weights, labels)
            object.__setattr__(self, "weights", weights)
        if self.remainder not in _REMAINDERS:
            raise unknown_name("remainder", self.remainder, _REMAINDERS)
        object.__setattr__(self, "batch_size", whole_number("batch_size", self.batch_size))
        if self.batch_size > len(images):
            raise InputError(
                f"A batch of {self.batch_size} examples cannot be filled: {self.name} has only "
                f"{len(images)}; take a smaller batch or more data."
            )
        object.__setattr__(self, "seed", checked_seed(self.seed))

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch; with "carry", batches until every example was seen."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and self.remainder != "drop")

    def batches(self, start_step: int = 0) -> tf.data.Dataset:
        """The batches (images, labels[, weights]) from step `start_step` on, without end.

        Args:
            start_step: Batches to leave out, 0 or more. They are not computed.

        Raises:
            InputError: A negative start.
        """
        start_step = whole_number("start_step", start_step, 0)
        # On a GPU machine an eager constant would lie on the GPU and be copied back for every
        # batch.
        with tf.device("/CPU:0"):
            arrays = self.images, self.labels
            arrays += () if self.weights is None else (self.weights,)
            arrays = [tf.constant(array) for array in arrays]

            def load(step, indices):
                x, *rest = (tf.gather(array, indices) for array in arrays)
                if self.augmentation is not None:
                    positions = self._first_position(step) + tf.range(
                        tf.shape(indices, out_type=tf.int64)[0]
                    )
                    x = augment(x, self.augmentation, self.seed, positions)
                return x, *rest

            steps = tf.data.Dataset.counter(start_step)
            batches = tf.data.Dataset.zip(steps, self._indices(start_step))
            return batches.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _first_position(self, step):
        """How many examples of the stream come before the batch `step`, left out ones counted."""
        if self.remainder == "carry":
            return step * self.batch_size
        epoch, within = step // self.steps_per_epoch, step % self.steps_per_epoch
        return epoch * len(self.images) + within * self.batch_size

    def _indices(self, start_step: int) -> tf.data.Dataset:
        """int32 (batch,): which examples make up each batch from `start_step` on."""
        count, batch_size = len(self.images), self.batch_size

        def permutation(epoch):
            seed = example_seeds(self.seed, "shuffle", epoch)
            # The algorithm is named because the automatic choice depends on the device.
            indices = tf.random.experimental.stateless_shuffle(tf.range(count), seed, alg="philox")
            return tf.data.Dataset.from_tensor_slices(indices)

        if self.remainder == "carry":
            epoch, within = divmod(start_step * batch_size, count)
            examples = tf.data.Dataset.counter(epoch).flat_map(permutation)
            return examples.skip(within).batch(batch_size, drop_remainder=True)
        epoch, within = divmod(start_step, self.steps_per_epoch)
        drop = self.remainder == "drop"
        batches = tf.data.Dataset.counter(epoch).flat_map(
            lambda epoch: permutation(epoch).batch(batch_size, drop_remainder=drop)
        )
        return batches.skip(within)


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetStream:
    """A user's own batched `tf.data.Dataset`, repeated without end by one persistent iterator.

    Continuing at step k reads and throws away k batches. It is exact if the data set is a function
    of its seeds (give `shuffle` and random operations a seed, do not set `deterministic=False`) and
    was built anew: TensorFlow's `shuffle` gives another order when one data set object is
    iterated a second time in the same program. If the first examples are all of one class, that is
    said on the standard error.

    Attributes:
        dataset: Batches (inputs, labels), or with weights of the examples as a third part.
        needs_length: Whether `steps_per_epoch` will be asked for.
        name: What the errors call the data.

    Raises:
        InputError: Not such batches, an empty data set, or an unknown length that is needed.
    """

    dataset: tf.data.Dataset
    needs_length: bool = True
    name: str = "data"

    def __post_init__(self):
        spec = self.dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) not in (2, 3):
            raise InputError(
                f"The data set {self.name} must yield pairs (inputs, labels), or (inputs, labels, "
                f"weights of the examples); it yields {spec}."
            )
        if any(part.shape.rank == 0 for part in tf.nest.flatten(spec)):
            raise InputError(
                f"The data set {self.name} must yield batches, not single examples: call "
                f"{self.name}.batch(batch_size) first; it yields {spec}."
            )
        length = self._length()
        if length == 0:
            raise InputError(f"The data set {self.name} is empty; expected at least one batch.")
        if length < 0 and self.needs_length:
            if length == tf.data.INFINITE_CARDINALITY:
                kind, remedy = "endless", "cut one epoch out of it with take(number_of_batches)"
            else:
                kind = "of unknown length"
                remedy = (
                    f"state it with {self.name}.apply("
                    "tf.data.experimental.assert_cardinality(number_of_batches))"
                )
            raise InputError(
                f"The data set {self.name} is {kind}, so that an epoch has no number of batches: "
                f"{remedy}."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the data set."""
        return self._length()

    def batches(self, start_step: int = 0) -> tf.data.Dataset:
        """The batches (inputs, labels) from step `start_step` on, without end.

        Args:
            start_step: Batches to leave out, 0 or more. They are computed and thrown away.

        Raises:
            InputError: A negative start.
        """
        start_step = whole_number("start_step", start_step, 0)
        return watched(self.dataset.repeat(), self.name).skip(start_step)

    def _length(self) -> int:
        return int(self.dataset.cardinality())


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, *, name: str = "data"
) -> tf.data.Dataset:
    """Every example once, in stored order, not augmented; the last batch may be smaller.

    The authors also augment in the validation pass after each search epoch. We do not: a figure
    that is reported should not depend on luck.

    Args:
        images: (N, H, W, C) on any scale, or (N, ...) of any numbers.
        labels: (N,) or (N, K).
        batch_size: Examples in a batch, 1 or more.
        name: What the errors call the data.

    Returns:
        A finite data set of (images, labels) with known cardinality.

    Raises:
        InputError: Unusable arrays (see `checked_examples`) or batch size.
    """
    images, labels = checked_examples(name, images, labels, as_images=False)
    batch_size = whole_number("batch_size", batch_size)
    with tf.device("/CPU:0"):
        dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
        return dataset.prefetch(tf.data.AUTOTUNE)
