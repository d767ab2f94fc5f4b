"""Pairs every training batch with a validation batch, which one step of the bilevel search needs.

The weights learn from the first, the architecture parameters from the second (paper, algorithm 1).
"""

import dataclasses

import numpy as np
import tensorflow as tf

from darts_tf.data.arrays import checked_half
from darts_tf.data.augmentation import Augmentation, checked_seed
from darts_tf.data.splitting import check_halves
from darts_tf.data.streams import ArrayStream, DatasetStream
from darts_tf.errors import InputError

Half = tuple[np.ndarray, ...] | tf.data.Dataset


@dataclasses.dataclass(frozen=True, eq=False)
class Pairing:
    """Batches of the training half, each with one of the validation half.

    Attributes:
        train: The stream for the weights; its epochs are the epochs of the search.
        valid: The stream for the architecture parameters: one sweep after another, whatever the
            epochs of `train` are. The authors draw a fresh random batch for every step instead,
            from a loader rebuilt each time; here every example has come once before any comes
            twice, and nothing is rebuilt.
    """

    train: ArrayStream | DatasetStream
    valid: ArrayStream | DatasetStream

    @property
    def steps_per_epoch(self) -> int:
        """Training batches an epoch."""
        return self.train.steps_per_epoch

    def stream(self, start_step: int = 0) -> tf.data.Dataset:
        """The pairs of batches from a step on, without end.

        Args:
            start_step: Steps to leave out, 0 or more: `stream(k)` yields exactly what `stream()`
                yields from its step k on. Of arrays nothing is computed twice; a `tf.data.Dataset`
                is read from its beginning, see `DatasetStream` for when that is exact.

        Returns:
            An endless data set of ((x, y), (x_valid, y_valid)); a half with weights has (x, y, w).

        Raises:
            InputError: A negative start.
        """
        pairs = tf.data.Dataset.zip(self.train.batches(start_step), self.valid.batches(start_step))
        return pairs.prefetch(tf.data.AUTOTUNE)


def pair(
    train: Half,
    valid: Half,
    *,
    batch_size: int | None = None,
    seed: int | None = None,
    augmentation: Augmentation | None = None,
    drop_remainder: bool = False,
) -> Pairing:
    """Pairs the data for the weights with the data for the architecture parameters.

    Both halves should hold the same classes in the same proportions, as those of `split` do.

    Args:
        train: For the weights: a tuple (inputs, labels) of arrays, or a batched `tf.data.Dataset`
            of (inputs, labels); either may have weights of the examples as a third part, for which
            see `darts_tf.losses.BatchLoss`. Of arrays, the last batch of an epoch is smaller, as
            published.
        valid: For the architecture parameters, likewise. Of arrays, all batches are full.
        batch_size: Examples in a batch of arrays, 1..N. 64 by default, as published for both.
        seed: 0 or more; decides shuffling and augmentation of arrays. The two halves use it
            independently. 0 by default.
        augmentation: What is done to images in arrays of both halves, as published; None for
            nothing. Images keep their scale: normalising is the network's part.
        drop_remainder: Leave out the smaller last batch of an epoch, so that all batches have one
            shape.

    Returns:
        The pairing; it starts no work before it is iterated.

    Raises:
        InputError: Unusable arrays (different lengths, empty, wrong rank or type, not finite: the
            first bad example is named), a batch larger than a half, a class that only `valid` holds
            or one class in all (one that it lacks is warned of), a `tf.data.Dataset` that is
            empty, not batched, or of unknown length (train), or settings for arrays given with two
            data sets.
    """
    datasets = [isinstance(half, tf.data.Dataset) for half in (train, valid)]
    given = {"batch_size": batch_size, "seed": seed, "augmentation": augmentation}
    given |= {"drop_remainder": drop_remainder or None}
    refused = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if all(datasets) and refused:
        raise InputError(
            "batch_size, seed, augmentation and drop_remainder apply to arrays. "
            f"Received two tf.data.Dataset and {', '.join(refused)}: batch, shuffle and map the "
            "data sets yourself, or give arrays."
        )
    batch_size = 64 if batch_size is None else batch_size
    seed = checked_seed(0 if seed is None else seed)
    seeds = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    streams = []
    for name, half, is_dataset, half_seed in zip(
        ("train", "valid"), (train, valid), datasets, seeds, strict=True
    ):
        if is_dataset:
            streams.append(DatasetStream(half, needs_length=name == "train", name=name))
            continue
        remainder = "carry" if name == "valid" else "drop" if drop_remainder else "keep"
        inputs, labels, weights = checked_half(name, half)
        streams.append(
            ArrayStream(
                inputs,
                labels,
                weights=weights,
                batch_size=batch_size,
                seed=int(half_seed),
                augmentation=augmentation,
                remainder=remainder,
                name=name,
            )
        )
    if not any(datasets):
        check_halves(*(stream.labels for stream in streams))
    return Pairing(*streams)
