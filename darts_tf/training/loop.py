"""One loop for all programs: checkpoint after every epoch, resume, guards, records."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.training.callbacks import (
    MetricsLog,
    Progress,
    StopOnNotFinite,
    StopOnSignal,
)

METRICS = "metrics.jsonl"


class Checkpoints:
    """The states of a run after its last epochs.

    Order of a restart: 1. the newest checkpoint, 2. none: epoch 0.

    Args:
        folder: Where they are; made when the first is saved.
        variables: Everything that changes: weights, alphas, running statistics, optimizers.
        keep: How many are kept.
    """

    def __init__(
        self, folder: str | os.PathLike[str], variables: Sequence[keras.Variable], keep: int = 2
    ):
        self._epochs_done = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            epochs_done=self._epochs_done, variables=[v.value for v in variables]
        )
        self._manager = tf.train.CheckpointManager(self._checkpoint, os.fspath(folder), keep)

    def restore(self) -> int:
        """Restores the newest state, if there is one; returns the number of epochs that are done.

        Raises:
            InputError: The newest checkpoint cannot be read or does not fit these variables.
        """
        # Those whose files are there: the manager also lists one that was removed as not readable.
        present = [p for p in self._manager.checkpoints if os.path.exists(f"{p}.index")]
        newest = present[-1] if present else None
        if newest is None:
            return 0
        try:
            self._checkpoint.restore(newest).assert_consumed()
        except (tf.errors.OpError, AssertionError, ValueError, IndexError, RuntimeError) as error:
            raise InputError(
                f"The checkpoint {newest} cannot be restored: {str(error).splitlines()[0]} "
                "Remove its files to go on from the one before, or use a new work folder."
            ) from error
        return int(self._epochs_done.numpy())

    def save(self, epochs_done: int) -> None:
        """Saves the present state."""
        self._epochs_done.assign(epochs_done)
        self._manager.save(checkpoint_number=epochs_done)


class _SaveEveryEpoch(keras.callbacks.Callback):
    """The last of the callbacks: what it saves includes what the others did."""

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch, logs=None):
        self.checkpoints.save(epoch + 1)


@dataclasses.dataclass(frozen=True)
class Run:
    """How a model is trained by a program.

    Attributes:
        title: First word of the progress lines.
        folder: The work folder.
        epochs: Number of epochs.
        steps_per_epoch: Steps of an epoch.
            None where the epochs differ; `batches` then gives one epoch.
        batches: A function of the first step's number to an endless data set; the same step always
            has the same batch, so that a run that goes on reads what it would have read. Without
            `steps_per_epoch`, a function of the epoch to the finite data set of that epoch.
        validation_data: Evaluated after every epoch, or None.
        schedule: Learning rate of an epoch.
        callbacks: A function of the first epoch to more callbacks.
    """

    title: str
    folder: pathlib.Path
    epochs: int
    steps_per_epoch: int | None
    batches: Callable[[int], tf.data.Dataset]
    validation_data: tf.data.Dataset | None
    schedule: Callable[[int], float]
    callbacks: Callable[[int], list[keras.callbacks.Callback]] = lambda first_epoch: []


def read_metrics(folder: pathlib.Path) -> list[dict]:
    """The lines of a work folder's metrics.jsonl, one object for each epoch."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def train(model: keras.Model, run: Run, optimizers: Sequence[keras.optimizers.Optimizer]) -> int:
    """Trains from the newest checkpoint of the work folder to the last epoch.

    Args:
        model: A compiled model.
        run: How.
        optimizers: Those of the model; a checkpoint holds their variables and the model's.

    Returns:
        The epoch from which it went on; 0 for a new run, `run.epochs` if nothing was left to do.

    Raises:
        StopRequested: A signal asked to stop. The state after the last whole epoch is saved.
        NotFinite: A loss or the alphas became NaN or infinite.
    """
    variables = [*model.variables, *(v for o in optimizers for v in o.variables)]
    checkpoints = Checkpoints(
        run.folder / "checkpoints", list({id(v): v for v in variables}.values())
    )
    first_epoch = checkpoints.restore()
    if first_epoch >= run.epochs:
        return first_epoch
    if first_epoch:
        print(f"{run.title} goes on after epoch {first_epoch}/{run.epochs}", flush=True)
    signals = StopOnSignal()
    callbacks = _AcrossFits(
        [
            keras.callbacks.LearningRateScheduler(run.schedule),
            StopOnNotFinite(),
            # Before the records: what they add to an epoch's results is recorded.
            *run.callbacks(first_epoch),
            MetricsLog(run.folder / METRICS, first_epoch),
            Progress(run.title, run.epochs),
            _SaveEveryEpoch(checkpoints),
            signals,
        ],
        add_history=True,
        model=model,
        # Keras tells these to a list of callbacks that it makes itself, not to a given one.
        epochs=run.epochs,
        steps=run.steps_per_epoch,
        verbose=0,
    )
    # One fit for all epochs, or one for each where each has a data set of its own.
    stops = [run.epochs] if run.steps_per_epoch else range(first_epoch + 1, run.epochs + 1)
    begin = first_epoch
    try:
        for stop in stops:
            callbacks.last = stop == run.epochs
            model.fit(
                run.batches(begin * (run.steps_per_epoch or 1)),
                steps_per_epoch=run.steps_per_epoch,
                initial_epoch=begin,
                epochs=stop,
                validation_data=run.validation_data,
                verbose=0,
                shuffle=False,  # the stream is shuffled
                callbacks=callbacks,
            )
            begin = stop
    finally:
        signals.release()
    return first_epoch


class _AcrossFits(keras.callbacks.CallbackList):
    """Callbacks for which several calls of `fit` are one training."""

    begun, last = False, True

    def on_train_begin(self, logs=None):
        if not self.begun:
            super().on_train_begin(logs)
        self.begun = True

    def on_train_end(self, logs=None):
        if self.last:
            super().on_train_end(logs)
