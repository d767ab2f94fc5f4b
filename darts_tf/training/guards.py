"""The guard that ends a training whose numbers are not finite, and says what was first."""

import math
from collections.abc import Iterable

import keras
import numpy as np

from darts_tf.errors import InputError, whole_number
from darts_tf.loss_scale import steps_done


class NotFinite(InputError):
    """Something in a training became NaN or infinite."""


class StopOnNotFinite(keras.callbacks.Callback):
    """Ends a training when its data, losses, gradients, alphas or weights become NaN or infinite.

    The models of this package remember on the device what was first, and in which step; it is read
    every `window` steps and at the end of an epoch, and is the same on any number of replicas and
    workers. Of other models the metrics are looked at after every step, and the alphas, if there
    are any, every `window` steps.

    At the end of an epoch everything that a checkpoint would hold is looked at: put this callback
    before those that save, so that they never save a bad state.

    Args:
        window: Steps between two looks, 1 or more.

    Raises:
        NotFinite: Naming what became bad first and when: an example, the loss of a batch, the
            gradient of a variable, alphas, weights, or a metric; and what to change.
    """

    def __init__(self, window: int = 10):
        super().__init__()
        self.window = whole_number("window", window)

    def on_train_begin(self, logs=None):
        """Looks at what the training begins with."""
        self._epoch, self._done, self._looked = 0, 0, 0
        self._first = getattr(self.model, "first_not_finite", None)
        if self._first is not None:
            self._first.forget()
        bad = _first_bad(self.model.variables)
        if bad is not None:
            raise NotFinite(
                f"{bad} is NaN or infinite before the first step. Look at where its value comes "
                "from: an initializer, or a file that was loaded."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers where it is."""
        self._epoch, self._done, self._looked = epoch, 0, 0

    def on_train_batch_end(self, batch, logs=None):
        """Looks, when it is time to."""
        self._done = batch + 1
        window_ends = self._done % self.window == 0
        if window_ends:
            self._look()
        if window_ends or self._first is None:
            self._look_at_metrics(logs, batch, f"step {self._done}")
        if window_ends:
            self._looked = self._done

    def on_epoch_end(self, epoch, logs=None):
        """Looks at everything once more."""
        self._look()
        self._look_at_metrics(logs, self._looked, "its end")
        self.check(self.model.variables)

    def check(self, variables: Iterable[keras.Variable]) -> None:
        """Looks at everything before it is saved.

        Args:
            variables: What will be saved.

        Raises:
            NotFinite: As the callback.
        """
        self._look()
        bad = _first_bad(variables)
        if bad is not None:
            self._stop_within(f"{bad} became NaN or infinite", self._looked, f"step {self._done}")

    def _look(self) -> None:
        if self._first is None:
            supernet = getattr(self.model, "supernet", None)
            bad = _first_bad(supernet.architecture_parameters if supernet else ())
            if bad is not None:
                self._stop_within(
                    f"{bad} became NaN or infinite", self._looked, f"step {self._done}"
                )
            return
        found = self._first.read()
        if found is None:
            return
        # The step's number in this epoch: its distance from the present one is known.
        now = int(steps_done(self.model.optimizer, getattr(self.model, "loss_scale", None)))
        step = self._done - (now - found.step) + 1
        what = f"The {found.name}"
        if found.where is not None:
            what += f" (first in {found.where})"
        what += " became NaN or infinite, before anything else,"
        what += f" in step {step} of epoch {self._epoch + 1}."
        if found.example is not None:
            what += (
                f" It is example {found.example} of the step's batch, counted from 0; in batches "
                f"of {found.batch_size}, example {(step - 1) * found.batch_size + found.example} "
                "of the epoch."
            )
        raise NotFinite(f"{what} {_KEPT} {found.advice}".rstrip())

    def _look_at_metrics(self, logs, first, last) -> None:
        for name, value in (logs or {}).items():
            if not math.isfinite(value):
                self._stop_within(f"{name} became {float(value)}", first, last)

    def _stop_within(self, what, first, last):
        raise NotFinite(
            f"{what} in epoch {self._epoch + 1}, between step {first} and {last}. {_KEPT} Lower "
            "the learning rate, clip the gradient harder, or look for bad examples in the data."
        )


_KEPT = "It is not saved: what was saved before it is kept."


def _first_bad(variables: Iterable[keras.Variable]) -> str | None:
    """The path of the first variable with a number that is not finite."""
    for variable in variables:
        value = keras.ops.convert_to_numpy(variable)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return variable.path
    return None
