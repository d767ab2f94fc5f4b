"""What users attach to `fit` for language models: rates by window, states, averaging, the best."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import keras

from darts_tf import files
from darts_tf.errors import InputError


class StepLearningRate(keras.callbacks.Callback):
    """Sets the learning rate of every step of an epoch, and the base rate again after it.

    Args:
        rates: A function of the epoch to the rates of its steps.
    """

    def __init__(self, rates: Callable[[int], Sequence[float]]):
        super().__init__()
        self.rates = rates

    def on_epoch_begin(self, epoch, logs=None):
        """Asks for the epoch's rates."""
        self._base = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._rates = self.rates(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the step's rate."""
        if batch >= len(self._rates):
            raise InputError(
                f"StepLearningRate has {len(self._rates)} rates for this epoch, which has more "
                "steps. Give it the rates of the same windows that fit() reads."
            )
        self.model.optimizer.learning_rate = self._rates[batch]

    def on_epoch_end(self, epoch, logs=None):
        """Sets the base rate, which is also what an earlier scheduler's record should say."""
        self.model.optimizer.learning_rate = self._base
        if logs and "learning_rate" in logs:
            logs["learning_rate"] = self._base


class CarriedState(keras.callbacks.Callback):
    """Sets the carried hidden states to zero where a stream begins: every epoch, every test."""

    def on_epoch_begin(self, epoch, logs=None):
        """Zero before the epoch's first window."""
        self._network().reset_states()

    def on_test_begin(self, logs=None):
        """Zero before the first window of an evaluation."""
        hidden = self._network().evaluation_hidden
        hidden.assign(keras.ops.zeros_like(hidden))

    def _network(self):
        for name in ("supernet", "network"):
            network = getattr(self.model, name, None)
            if hasattr(network, "reset_states"):
                return network
        raise InputError(
            "CarriedState needs a model around a language model, such as ArchitectureSearch of a "
            f"RecurrentSupernet. Received: {type(self.model).__name__}."
        )


class Perplexity(keras.callbacks.Callback):
    """Adds perplexity = exp(loss), and val_perplexity, to what other callbacks see of an epoch."""

    def on_epoch_end(self, epoch, logs=None):
        """Adds them."""
        for loss, name in (("loss", "perplexity"), ("val_loss", "val_perplexity")):
            if logs and loss in logs:
                # Beyond float's range only where a run has failed, which others say.
                logs[name] = math.exp(min(float(logs[loss]), 700.0))


class StartAveraging(keras.callbacks.Callback):
    """Starts the optimizer's averaging when the validation loss no longer falls.

    The published trigger, after an epoch: more than `nonmono` earlier losses are known, and the new
    one exceeds the smallest of all but the last `nonmono` of them.

    Args:
        nonmono: Epochs of patience (5 as published).
        losses: Validation losses of the epochs that an earlier part of the run did.
    """

    def __init__(self, nonmono: int = 5, losses: Sequence[float] = ()):
        super().__init__()
        self.nonmono, self.losses = nonmono, list(losses)

    def on_epoch_end(self, epoch, logs=None):
        """Decides."""
        optimizer = self.model.optimizer
        if optimizer.is_averaging:
            return
        loss = float(logs["val_loss"])
        earlier = self.losses[: -self.nonmono] if self.nonmono else self.losses
        if len(self.losses) > self.nonmono and loss > min(earlier):
            optimizer.start_averaging()
            print(f"averaging   starts after epoch {epoch + 1}", flush=True)
        self.losses.append(loss)


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the lowest validation loss in a file.

    They are those that were evaluated: averages, once the optimizer averages.

    Args:
        path: The file, ending in .weights.h5.
        losses: Validation losses of the epochs that an earlier part of the run did.
    """

    def __init__(self, path: str | os.PathLike[str], losses: Sequence[float] = ()):
        super().__init__()
        self.path = pathlib.Path(path)
        self.best = min(losses, default=math.inf)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the file anew, atomically, if the epoch was the best."""
        loss = float(logs["val_loss"])
        if not loss < self.best:
            return
        self.best = loss
        model = self.model
        with (
            files.replacing(self.path, files.size_of(model.network.variables)) as partial,
            model.optimizer.averaged(model.network.trainable_variables),
        ):
            model.network.save_weights(partial)


def validation_losses(path: str | os.PathLike[str], epochs: int) -> list[float]:
    """The validation losses of the first epochs in a run's metrics.jsonl.

    Args:
        path: The file; it need not exist where `epochs` is 0.
        epochs: How many epochs are done.
    """
    if not epochs:
        return []
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row["val_loss"] for row in rows if row["epoch"] < epochs and "val_loss" in row]
