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
from darts_tf.errors import InputError, real_number, whole_number
from darts_tf.genotype import alpha_file, save


class DropPathSchedule(keras.callbacks.Callback):
    """Ramps drop path: p = largest * epoch / epochs, epochs counted from 0, p constant within one.

    Args:
        largest: Largest probability, in [0, 1) (0.2 as published for CIFAR-10).
        epochs: Number of epochs of the whole training.
    """

    def __init__(self, largest: float, epochs: int):
        super().__init__()
        self.largest = real_number("largest", largest)
        if not 0 <= self.largest < 1:
            raise InputError(f"The drop path probability must be in [0, 1). Received: {largest}.")
        self.epochs = whole_number("epochs", epochs)

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
    content = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in content.splitlines():
        try:
            row = json.loads(line)
            if row["epoch"] < first_epoch:
                kept.append(row)
        except (ValueError, TypeError, KeyError):
            break
    files.write(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


class _Record(keras.callbacks.Callback):
    """A file of what every epoch gave, of which a run keeps the epochs before its first.

    The first is known when it begins: `keras.callbacks.BackupAndRestore` restores before it.
    """

    def on_train_begin(self, logs=None):
        """Waits for the first epoch."""
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        """Removes what stands there of the epochs that are about to be repeated."""
        if not self._begun:
            self.begin(epoch)
        self._begun = True

    def begin(self, epoch: int) -> None:
        """Leaves in the file the epochs before this one."""
        raise NotImplementedError


class MetricsLog(_Record):
    """Appends one JSON object per epoch to a file: epoch, learning rate and all metrics.

    No times: the same run has the same file.

    Args:
        path: The file. Epochs from the first one of this run on are removed as it begins, so that
            an epoch that is repeated after an interruption stands there once.
    """

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__()
        self.path = pathlib.Path(path)

    def begin(self, epoch):
        """Removes the lines of epochs that are about to be repeated."""
        keep_epochs(self.path, epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the line."""
        line = {"epoch": epoch, "learning_rate": _number(self.model.optimizer.learning_rate)}
        line.update({name: _number(value) for name, value in (logs or {}).items()})
        files.append(self.path, json.dumps(line))


def _number(value) -> float | list:
    """A metric as JSON has it: a number, or the numbers of one that has several."""
    return keras.ops.convert_to_numpy(value).astype(float).tolist()


def missing_epochs(path: pathlib.Path, epochs: int, why: str) -> InputError:
    """The answer to records that lack what was recorded before an interruption."""
    return InputError(
        f"{path} does not hold the first {epochs} epochs of the run: {why}. The run resumes from "
        "what is recorded there: put the file back, or begin anew in another folder."
    )


class AlphaHistory(_Record):
    """Records the alphas after every epoch in an .npz file.

    Arrays: `epoch` (E,), and one (E, edges, primitives) per tensor of architecture parameters,
    named as the variable without "alphas_": `normal` and `reduce`. Of several with one name all but
    the first are numbered: `mix`, `mix_1`.

    Args:
        path: The file; read back when a run is resumed.
        first_epoch: The file must hold the epochs before this one, as that of a resumed run does.

    Raises:
        InputError: The file does not hold the epochs before `first_epoch`, or those of other
            alphas, would be larger than `darts_tf.genotype.load_alphas` reads, or cannot be
            written.
    """

    def __init__(self, path: str | os.PathLike[str], first_epoch: int = 0):
        super().__init__()
        self.path = pathlib.Path(path)
        self.first_epoch = whole_number("first_epoch", first_epoch, 0)
        self.arrays: dict[str, np.ndarray] = {}

    def begin(self, epoch):
        """Reads what an earlier part of the run recorded."""
        new = self._alphas()
        epochs = max(epoch + 1, (self.params or {}).get("epochs") or 0)
        alpha_file.check_size(len(new), epochs * sum(a.nbytes for a in new.values()))
        self.arrays = {}
        if epoch == 0 or not (self.first_epoch or self.path.exists()):
            return
        saved = alpha_file.load_alphas(self.path)
        if {n: a.shape[1:] for n, a in saved.items()} != {n: a.shape for n, a in new.items()}:
            raise missing_epochs(self.path, epoch, "it holds other alphas")
        kept = saved["epoch"] < epoch
        if kept.sum() < self.first_epoch:
            raise missing_epochs(self.path, self.first_epoch, f"it holds {kept.sum()}")
        self.arrays = {name: array[kept] for name, array in saved.items()}

    def on_epoch_end(self, epoch, logs=None):
        """Adds one row to every array and writes the file anew, atomically."""
        for name, value in {**self._alphas(), "epoch": np.array(epoch)}.items():
            old = self.arrays.get(name, np.empty((0, *value.shape), value.dtype))
            self.arrays[name] = np.concatenate([old, value[None]])
        content = io.BytesIO()
        np.savez(content, **self.arrays)
        files.write(self.path, content.getvalue())

    def _alphas(self) -> dict[str, np.ndarray]:
        """The present ones by name, and a place for the epoch."""
        found = {"epoch": np.array(0)}
        for variable in self.model.supernet.architecture_parameters:
            name = wanted = variable.name.removeprefix("alphas_")
            number = 0
            while name in found or name in _TAKEN:
                number += 1
                name = f"{wanted}_{number}"
            value = keras.ops.convert_to_numpy(variable)
            # NumPy's files know no bfloat16.
            found[name] = value if value.dtype.kind in "biuf" else value.astype(np.float32)
        return found


_TAKEN = {"file", "allow_pickle"}
"""Arguments of `numpy.savez`, which has the arrays as others."""


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
        metrics = {name: _number(value) for name, value in (logs or {}).items()}
        metrics = keras.tree.map_structure(lambda value: round(value, 6), metrics)
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
        self.title, self.epochs = title, whole_number("epochs", epochs)
        self.every = real_number("every", every)
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
