"""Windows of a text for truncated back-propagation through time: functions of (seed, epoch).

A text is cut into rows of equal length that stand side by side in a batch; a window is a piece of
all rows, its labels the same piece one word later. Window follows window, so that a hidden state
can be carried on.
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError, unknown_name, whole_number

LENGTHS = ("search", "train")
SHORT_SHARE = 0.05
"""How often the base length is halved, as published."""


class Window(NamedTuple):
    """Where a window is.

    Attributes:
        start: Its first column.
        length: Its number of words in a row.
        drawn: The length that was drawn, which the end of the text may have cut.
    """

    start: int
    length: int
    drawn: int


def rows_of(tokens: np.ndarray, rows: int, name: str = "text") -> np.ndarray:
    """A text as rows of equal length, (rows, words a row); what does not fill a row is left out.

    Raises:
        InputError: The text is too short for so many rows of three words.
    """
    length = len(tokens) // rows
    if length < 3:
        raise InputError(
            f"A batch of {rows} rows needs at least {3 * rows} words; {name} has {len(tokens)}. "
            "Take a smaller batch or more text."
        )
    return np.ascontiguousarray(tokens[: rows * length].reshape(rows, length))


@dataclasses.dataclass(frozen=True, eq=False)
class TrainWindows:
    """The windows of a training, of other lengths in every epoch.

    The length is drawn for each window, as published: a base of `bptt`, halved once in 20; in a
    search that, rounded down; in a training a normal number around it (deviation 5), within 5 and
    `bptt` + 20. An epoch runs while two words are left.

    Attributes:
        tokens: Word numbers, (words,).
        batch_size: Rows.
        bptt: Base length (35 as published), 2 or more.
        seed: 0 or more.
        lengths: "search" or "train".
        name: What the errors call the text.

    Raises:
        InputError: A number is out of its range, or the text too short.
    """

    tokens: np.ndarray
    batch_size: int
    bptt: int = 35
    seed: int = 0
    lengths: Literal["search", "train"] = "train"
    name: str = "the training text"

    def __post_init__(self):
        if self.lengths not in LENGTHS:
            raise unknown_name("lengths of windows", self.lengths, LENGTHS)
        for field, least in (("batch_size", 1), ("bptt", 2), ("seed", 0)):
            object.__setattr__(self, field, whole_number(field, getattr(self, field), least))
        object.__setattr__(self, "rows", rows_of(self.tokens, self.batch_size, self.name))

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        columns, start, found = self.rows.shape[1], 0, []
        while start < columns - 2:
            base = self.bptt if generator.random() >= SHORT_SHARE else self.bptt / 2
            if self.lengths == "train":
                base = min(max(5.0, generator.normal(base, 5.0)), self.bptt + 20.0)
            drawn = max(1, int(base))
            found.append(Window(start, min(drawn, columns - 1 - start), drawn))
            start += drawn
        return found

    def rates(self, epoch: int, base: float) -> list[float]:
        """The learning rate of each step of an epoch: base * drawn length / bptt, as published."""
        return [base * window.drawn / self.bptt for window in self.windows(epoch)]

    def steps(self, epoch: int) -> int:
        """Number of windows of an epoch."""
        return len(self.windows(epoch))

    def batches(self, epoch: int, start_step: int = 0) -> tf.data.Dataset:
        """An epoch from a step on: (x, y), word numbers int32 (batch_size, length) each."""
        pieces = [(window.start, window.length) for window in self.windows(epoch)[start_step:]]
        return _pieces(self.rows, pieces).prefetch(2)


@dataclasses.dataclass(frozen=True, eq=False)
class PairedWindows:
    """The windows of a search: each of the training text with one of the validation text.

    The validation window stands where the training window does, round and round, and has the base
    length (shorter near the end), whatever was drawn: as published.

    Attributes:
        train: Those of the training text.
        valid: Word numbers of the validation text, (words,).
    """

    train: TrainWindows
    valid: np.ndarray

    def __post_init__(self):
        rows = rows_of(self.valid, self.train.batch_size, "the validation text")
        object.__setattr__(self, "rows", rows)

    def steps(self, epoch: int) -> int:
        """Number of windows of an epoch."""
        return self.train.steps(epoch)

    def batches(self, epoch: int, start_step: int = 0) -> tf.data.Dataset:
        """An epoch from a step on: ((x, y), (x_valid, y_valid))."""
        last = self.rows.shape[1] - 1
        pieces = []
        for window in self.train.windows(epoch)[start_step:]:
            start = window.start % last
            pieces.append((start, min(self.train.bptt, last - start)))
        return tf.data.Dataset.zip(
            self.train.batches(epoch, start_step), _pieces(self.rows, pieces).prefetch(2)
        )


def evaluation_windows(
    tokens: np.ndarray, batch_size: int, bptt: int = 35, name: str = "the text"
) -> tf.data.Dataset:
    """All windows of a text in order, of the base length; the last may be shorter.

    Raises:
        InputError: The text is too short for the batch.
    """
    bptt = whole_number("bptt", bptt)
    rows = rows_of(tokens, whole_number("batch_size", batch_size), name)
    last = rows.shape[1] - 1
    return _pieces(rows, [(start, min(bptt, last - start)) for start in range(0, last, bptt)])


def _pieces(rows: np.ndarray, pieces: list[tuple[int, int]]) -> tf.data.Dataset:
    """(x, y) of pieces (start, length) of all rows."""
    with tf.device("/CPU:0"):
        text = tf.constant(rows, tf.int32)
        starts_and_lengths = tf.constant(pieces, tf.int32)

    def piece(start_and_length):
        start, length = start_and_length[0], start_and_length[1]
        x, y = (text[:, first : first + length] for first in (start, start + 1))
        shape = [rows.shape[0], None]
        return tf.ensure_shape(x, shape), tf.ensure_shape(y, shape)

    return tf.data.Dataset.from_tensor_slices(starts_and_lengths).map(piece)
