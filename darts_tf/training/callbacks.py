"""What users attach to `fit`: schedules, records of a run, and the guards that end it well."""

import io
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import TextIO

import keras
import numpy as np

from darts_tf import files
from darts_tf.errors import InputError
from darts_tf.genotype import load_alphas, save


class DropPathSchedule(keras.callbacks.Callback):
    """Ramps drop path: p = largest * epoch / epochs, epochs counted from 0, p constant within one.

    Args:
        largest: Largest probability, in [0, 1) (0.2 as published for CIFAR-10).
        epochs: Number of epochs of the whole training.
    """

    def __init__(self, largest: float, epochs: int):
        super().__init__()
        if not 0 <= largest < 1:
            raise InputError(f"The drop path probability must be in [0, 1). Received: {largest}.")
        self.largest, self.epochs = largest, epochs

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the network's probability."""
        network = getattr(self.model, "network", self.model)
        if not hasattr(network, "drop_path_prob"):
            raise InputError(
                "DropPathSchedule needs a model with drop path, such as "
                f"darts_tf.EvaluationNetwork. Received: {type(network).__name__}."
            )
        network.drop_path_prob.assign(self.largest * epoch / self.epochs)


def keep_epochs(path: str | os.PathLike[str], first_epoch: int) -> list[dict]:
    """Leaves in a file of one JSON object per epoch those before `first_epoch`; returns them.

    Half a line, which a process that was killed or a full disk has left, is removed as well.
    """
    path = pathlib.Path(path)
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["epoch"] < first_epoch:
            kept.append(row)
    files.write(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


class MetricsLog(keras.callbacks.Callback):
    """Appends one JSON object per epoch to a file: epoch, learning rate and all metrics.

    No times: the same run has the same file.

    Args:
        path: The file. Epochs from the first one of this run on are removed at its start, so that
            an epoch that is repeated after an interruption stands there once.
    """

    def __init__(self, path: str | os.PathLike[str], first_epoch: int = 0):
        super().__init__()
        self.path = pathlib.Path(path)
        self.first_epoch = first_epoch

    def on_train_begin(self, logs=None):
        """Removes the lines of epochs that are about to be repeated."""
        keep_epochs(self.path, self.first_epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the line."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        line = {"epoch": epoch, "learning_rate": rate}
        line.update({name: float(value) for name, value in (logs or {}).items()})
        files.append(self.path, json.dumps(line))


def missing_epochs(path: pathlib.Path, epochs: int, why: str) -> InputError:
    """The answer to records that lack what was recorded before an interruption."""
    return InputError(
        f"{path} does not hold the first {epochs} epochs of the run: {why}. The run goes on from "
        "what is recorded there: put the file back, or begin anew in another folder."
    )


class AlphaHistory(keras.callbacks.Callback):
    """Records the alphas after every epoch in an .npz file.

    Arrays: `epoch` (E,), and one (E, edges, primitives) per tensor of architecture parameters,
    named as the variable without "alphas_": `normal` and `reduce`.

    Args:
        path: The file; read back when a run goes on.
        first_epoch: Epochs from this one on are removed at the start.

    Raises:
        InputError: The file does not hold the epochs before `first_epoch`, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], first_epoch: int = 0):
        super().__init__()
        self.path = pathlib.Path(path)
        self.first_epoch = first_epoch
        self.arrays: dict[str, np.ndarray] = {}

    def on_train_begin(self, logs=None):
        """Reads what an earlier part of the run recorded."""
        if not self.first_epoch:
            return
        saved = load_alphas(self.path)
        kept = saved["epoch"] < self.first_epoch
        if kept.sum() < self.first_epoch:
            raise missing_epochs(self.path, self.first_epoch, f"it holds {kept.sum()}")
        self.arrays = {name: array[kept] for name, array in saved.items()}

    def on_epoch_end(self, epoch, logs=None):
        """Adds one row to every array and writes the file anew, atomically."""
        new = {"epoch": np.array(epoch)}
        for variable in self.model.supernet.architecture_parameters:
            name = variable.name.removeprefix("alphas_")
            new[name] = keras.ops.convert_to_numpy(variable)
        for name, value in new.items():
            old = self.arrays.get(name, np.empty((0, *value.shape), value.dtype))
            self.arrays[name] = np.concatenate([old, value[None]])
        content = io.BytesIO()
        np.savez(content, **self.arrays)
        files.write(self.path, content.getvalue())


class GenotypeFile(keras.callbacks.Callback):
    """Writes the genotype of the present alphas to a file after every epoch.

    The authors' code logs it before each epoch, so that the alphas after the last one are never
    seen.

    Args:
        path: The file.
        provenance: Whatever tells how it was found; the epoch and its metrics are added.
    """

    def __init__(self, path: str | os.PathLike[str], provenance: dict | None = None):
        super().__init__()
        self.path, self.provenance = path, provenance or {}

    def on_epoch_end(self, epoch, logs=None):
        """Writes the file anew, atomically."""
        metrics = {name: round(float(value), 6) for name, value in (logs or {}).items()}
        found = {**self.provenance, "epochs_done": epoch + 1, "metrics": metrics}
        save(self.model.derive(), self.path, found)


SHOWN = ("loss", "accuracy", "perplexity")
"""What the names of the shown results contain."""


class Progress(keras.callbacks.Callback):
    """Prints one line per epoch, and one every few seconds within: loss, accuracy, remaining time.

    Plain lines, so that a log file reads like a terminal.

    Args:
        title: First word of every line, such as "search".
        epochs: Number of epochs of the whole run.
        every: Seconds between two lines within an epoch.
        stream: Where to print; standard output by default.
        clock: A function that returns seconds; for tests.
    """

    def __init__(
        self,
        title: str,
        epochs: int,
        every: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.title, self.epochs, self.every = title, epochs, every
        self.stream, self.clock = stream or sys.stdout, clock

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock; the first epoch's tracing is not counted in the remaining time."""
        self._epoch, self._last = epoch, self.clock()
        self._epoch_start = self._last
        if not hasattr(self, "_first"):
            self._first, self._done, self._spent = epoch, 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        """Prints within the epoch, when it is time to."""
        now = self.clock()
        if now - self._last >= self.every:
            steps = self.params.get("steps")
            self._last = now
            self._print(f"step {batch + 1}" + (f"/{steps}" if steps else ""), logs, None)

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's results and the remaining time."""
        seconds = self.clock() - self._epoch_start
        self._done += 1
        self._spent += seconds
        mean = self._spent / self._done
        if self._done == 1:
            self._startup = seconds
        else:  # later epochs alone tell how long an epoch takes
            mean = (self._spent - self._startup) / (self._done - 1)
        self._print(f"{seconds:.1f} s", logs, mean * (self.epochs - epoch - 1))

    def _print(self, where, logs, remaining):
        shown = {k: v for k, v in (logs or {}).items() if any(n in k for n in SHOWN)}
        parts = [f"{self.title} epoch {self._epoch + 1}/{self.epochs}", where]
        parts += [f"{name} {value:.4f}" for name, value in shown.items()]
        if remaining is not None:
            parts.append(f"remaining {duration(remaining)}")
        print("  ".join(parts), file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words: "45 s", "3 min 20 s", "5 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
