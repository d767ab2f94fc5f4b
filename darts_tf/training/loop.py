"""One loop for all programs: it resumes at any step, saves, stops and records.

As `keras.Model.fit`, with the model's own compiled steps and Keras' callbacks; but it can begin in
the middle of an epoch, and end there.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from darts_tf import files, replicas
from darts_tf.errors import InputError, StopRequested
from darts_tf.training.callbacks import MetricsLog, Progress, keep_epochs, missing_epochs
from darts_tf.training.checkpoints import Checkpoints, Position, Saving
from darts_tf.training.distribution import StopOnDivergence, Workers
from darts_tf.training.guards import StopOnNotFinite
from darts_tf.training.signals import Signals

METRICS, TIMES = "metrics.jsonl", "times.jsonl"
"""One JSON object per epoch: its results, the same whenever it runs; and its seconds."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a training, as functions of where it is.

    Attributes:
        steps: Steps of an epoch.
        start: A function of an epoch and a step of it to the data set that begins with that step's
            batch. The same step always has the same batch, so that a resumed run reads what it
            would have read.
        endless: Whether such a data set goes on with the next epochs; else it ends with its own.
    """

    steps: Callable[[int], int]
    start: Callable[[int, int], tf.data.Dataset]
    endless: bool

    @classmethod
    def of_stream(cls, steps_per_epoch: int, stream: Callable[[int], tf.data.Dataset]):
        """Those of an endless stream, a function of the first step counted over all epochs."""
        return cls(
            lambda epoch: steps_per_epoch,
            lambda epoch, step: stream(epoch * steps_per_epoch + step),
            endless=True,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """How a model is trained by a program.

    Attributes:
        title: First word of the progress lines.
        folder: The work folder.
        epochs: Number of epochs.
        batches: What it is trained on.
        validation_data: Evaluated after every epoch, or None.
        schedule: Learning rate of an epoch.
        callbacks: A function of the first epoch to more callbacks. What one of them sets at the
            begin of an epoch must be variables of the model or the optimizers, or follow from the
            epoch: a run that resumes within an epoch calls it, then restores the variables.
        settings: What makes the run this run; checkpoints of others are refused.
        saving: When checkpoints are taken.
        clock: A function that returns seconds; for tests.
    """

    title: str
    folder: pathlib.Path
    epochs: int
    batches: Batches
    validation_data: tf.data.Dataset | None
    schedule: Callable[[int], float]
    callbacks: Callable[[int], list[keras.callbacks.Callback]] = lambda first_epoch: []
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    saving: Saving = Saving()
    clock: Callable[[], float] = time.monotonic


def read_metrics(folder: pathlib.Path) -> list[dict]:
    """The lines of a work folder's metrics.jsonl, one object for each epoch."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def training_seconds(folder: pathlib.Path) -> float:
    """The seconds of all recorded epochs of a work folder."""
    lines = (folder / TIMES).read_text(encoding="utf-8").splitlines()
    return round(sum(json.loads(line)["seconds"] for line in lines), 1)


def _check_records(folder: pathlib.Path, begin: Position) -> None:
    """Checks that a run has the checkpoint that its records speak of, and the other way round.

    Raises:
        InputError: It has not; what resumed would not be what the records say.
    """
    path = folder / METRICS
    recorded = path.read_bytes().count(b"\n") if path.exists() else 0
    if recorded < begin.epoch:
        raise missing_epochs(path, begin.epoch, f"it holds {recorded}")
    # An epoch is recorded before it is saved: one may be there without the other.
    if begin == (0, 0) and recorded > 1:
        raise InputError(
            f"{path} holds {recorded} epochs, but {folder / 'checkpoints'} no checkpoint to resume "
            "from. Nothing was started over. Put the checkpoints back, name another folder with "
            "--workdir, or remove this one."
        )


def train(
    model: keras.Model, run: Run, optimizers: Sequence[keras.optimizers.Optimizer]
) -> Position:
    """Trains from the newest checkpoint of the work folder to the last epoch.

    Args:
        model: A compiled model, whose variables exist: also those of its metrics, which it makes in
            `build_metrics(element_spec of the batches)` if it has that.
        run: How.
        optimizers: Those of the model; a checkpoint holds their variables and the model's.

    Returns:
        Where it resumed: (0, 0) for a new run, (`run.epochs`, 0) if nothing was left to do.

    Raises:
        StopRequested: A signal asked to stop. The state after the last step is saved.
        NotFinite: Data, a loss, a gradient, alphas or weights became NaN or infinite; no checkpoint
            holds it.
        InputError: No checkpoint can be used, or a file cannot be written.
    """
    with Signals() as signals:
        return _Training(model, run, optimizers, signals).run_all()


class _Training:
    def __init__(self, model, run: Run, optimizers, signals: Signals):
        self.model, self.run, self.signals = model, run, signals
        self.workers = Workers(model.distribute_strategy)
        if hasattr(model, "build_metrics"):
            with model.distribute_strategy.scope():
                model.build_metrics(run.batches.start(0, 0).element_spec)
        state = [*model.variables, *model.metrics_variables]
        state += [v for optimizer in optimizers for v in optimizer.variables]
        self.guard = StopOnNotFinite()
        self.checkpoints = Checkpoints(
            run.folder / "checkpoints",
            list({id(v): v for v in state}.values()),
            run.settings,
            run.saving.keep,
            writes=self.workers.is_chief,
            strategy=model.distribute_strategy,
        )

    def run_all(self) -> Position:
        run, checkpoints = self.run, self.checkpoints
        state = checkpoints.restore()
        begin = state.position if state else Position(0, 0)
        _check_records(run.folder, begin)
        self.workers.check_alike(begin, checkpoints.folder)
        if begin.epoch >= run.epochs:
            return begin
        if state:
            where = f" epoch {begin.epoch}/{run.epochs}" if begin.epoch else ""
            where += f"{',' if where else ''} step {begin.step}" if begin.step else ""
            print(f"{run.title} resumes after{where}", flush=True)
        self.callbacks = keras.callbacks.CallbackList(
            [
                keras.callbacks.LearningRateScheduler(run.schedule),
                self.guard,
                StopOnDivergence(),
                # Before the records: what they add to an epoch's results is recorded.
                *run.callbacks(begin.epoch),
                MetricsLog(run.folder / METRICS),
                Progress(run.title, run.epochs),
                # Several workers stop only between steps, where they agree on it.
                *([] if self.workers.several else [_StopWithin(self.signals)]),
            ],
            model=self.model,
        )
        self.model.make_train_function()
        self.iterator = None
        self.saved_at = run.clock()
        keep_epochs(run.folder / TIMES, begin.epoch)
        self.callbacks.on_train_begin()
        for epoch in range(begin.epoch, run.epochs):
            within = state if epoch == begin.epoch and begin.step else None
            self.run_epoch(epoch, within)
            # The last thing of an epoch: what it holds includes what the callbacks did.
            self.save(Position(epoch + 1, 0))
        self.callbacks.on_train_end()
        self.stop_if_asked(Position(run.epochs, 0))
        return begin

    def run_epoch(self, epoch: int, within) -> None:
        """Runs an epoch, or what is left of it: `within` is the state in its middle."""
        run, model, callbacks = self.run, self.model, self.callbacks
        steps = run.batches.steps(epoch)
        first = within.position.step if within else 0
        self.epoch_begin = run.clock() - (within.seconds if within else 0.0)
        callbacks.set_params({"epochs": run.epochs, "steps": steps})
        model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        if within:
            self.checkpoints.assign(within)
        if first < steps and (self.iterator is None or not run.batches.endless):
            self.iterator = self.iterate(run.batches.start(epoch, first))
        for step in range(first, steps):
            self.stop_if_asked(Position(epoch, step))
            callbacks.on_train_batch_begin(step)
            logs = model.train_function(self.iterator)
            callbacks.on_train_batch_end(step, logs)
            due = run.clock() - self.saved_at >= 60 * run.saving.minutes
            if step + 1 < steps and self.workers.any(due and self.workers.is_chief):
                self.save(Position(epoch, step + 1))
        self.stop_if_asked(Position(epoch, steps))
        logs = {name: float(value) for name, value in model.get_metrics_result().items()}
        if run.validation_data is not None:
            try:
                with self.metrics_kept():
                    logs.update({f"val_{k}": v for k, v in self.evaluate().items()})
            except StopRequested:  # it will be repeated
                self.stop_if_asked(Position(epoch, steps))
        callbacks.on_epoch_end(epoch, logs)
        times = {"epoch": epoch, "seconds": round(run.clock() - self.epoch_begin, 3)}
        files.append(run.folder / TIMES, json.dumps(times))

    def iterate(self, dataset: tf.data.Dataset):
        """An iterator over global batches, dealt out to the replicas."""
        return iter(replicas.distribute(self.model.distribute_strategy, dataset))

    def evaluate(self) -> dict[str, float]:
        """The results on the validation data."""
        return self.model.evaluate(
            self.run.validation_data, verbose=0, return_dict=True, callbacks=self.callbacks
        )

    @contextlib.contextmanager
    def metrics_kept(self):
        """Puts the metrics of the epoch back, which an evaluation uses too."""
        variables = self.model.metrics_variables
        kept = [v.value.numpy() for v in variables]
        try:
            yield
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    def stop_if_asked(self, position: Position) -> None:
        """Saves and stops, if a signal came to this worker or another."""
        if self.workers.any(self.signals.received):
            if position not in (self.checkpoints.newest, Position(0, 0)):
                self.save(position)
            raise StopRequested(self.signals.received or "a signal to another worker")

    def save(self, position: Position) -> None:
        """Saves the present state, if it is a good one."""
        self.guard.check(self.checkpoints.variables)
        seconds = self.run.clock() - self.epoch_begin if position.step else 0.0
        self.checkpoints.save(position, seconds)
        self.saved_at = self.run.clock()


class _StopWithin(keras.callbacks.Callback):
    """Breaks an evaluation off when a signal comes."""

    def __init__(self, signals: Signals):
        super().__init__()
        self.signals = signals

    def on_test_batch_end(self, batch, logs=None):
        if self.signals.received:
            raise StopRequested(self.signals.received)
