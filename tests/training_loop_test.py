"""The training loop: what goes on after an interruption is what would have been."""

import functools
import json
import os
import signal

import keras
import numpy as np
import pytest

import darts_tf
from darts_tf.data import ArrayStream
from darts_tf.errors import InputError, StopRequested
from darts_tf.training import loop

EPOCHS, STEPS = 4, 3


class Stop(keras.callbacks.Callback):
    """Breaks a run off at a step of an epoch, by an exception or by a signal."""

    def __init__(self, epoch, by_signal=False):
        super().__init__()
        self.at, self.by_signal = epoch, by_signal

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.at, 1):
            if not self.by_signal:
                raise RuntimeError("the machine went down")
            os.kill(os.getpid(), signal.SIGTERM)


def make_model(seed=0, units=3):
    """Weights, momentum and running statistics, all of which a checkpoint must hold."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Input((2,)),
            keras.layers.Dense(units),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(darts_tf.SGD(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def make_run(folder, callbacks=(), batches=None):
    random = np.random.default_rng(0)
    x = random.normal(size=(STEPS * 4, 2)).astype(np.float32)
    stream = ArrayStream(x, x[:, :1] * x[:, 1:], batch_size=4, seed=1)
    return loop.Run(
        title="test",
        folder=folder,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        batches=batches or stream.batches,
        validation_data=None,
        schedule=darts_tf.cosine_schedule(0.1, 0.0, EPOCHS),
        callbacks=lambda first_epoch: list(callbacks),
    )


def train(model, run):
    return loop.train(model, run, [model.optimizer])


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [v.value.numpy() for v in {id(v): v for v in variables}.values()]


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without interruption: its folder and its last state."""
    folder = tmp_path_factory.mktemp("whole")
    model = make_model()
    assert train(model, make_run(folder)) == 0
    return folder, state(model)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_run_that_was_broken_off_ends_as_if_it_had_not_been(whole, epoch, tmp_path, capsys):
    with pytest.raises(RuntimeError, match="the machine went down"):
        train(make_model(), make_run(tmp_path, [Stop(epoch)]))
    model = make_model(seed=9)  # of another start, which must not matter once there is a checkpoint
    if epoch == 0:
        model = make_model()
    assert train(model, make_run(tmp_path)) == epoch
    assert (f"test goes on after epoch {epoch}/4" in capsys.readouterr().out) == (epoch > 0)
    folder, expected = whole
    for value, wanted in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert metrics(tmp_path) == metrics(folder)
    assert [line["epoch"] for line in metrics(tmp_path)] == [0, 1, 2, 3]


def test_a_signal_stops_the_run_gives_the_handlers_back_and_the_run_goes_on(whole, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(StopRequested, match="SIGTERM"):
        train(make_model(), make_run(tmp_path, [Stop(2, by_signal=True)]))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    model = make_model(seed=9)
    assert train(model, make_run(tmp_path)) == 2
    for value, wanted in zip(state(model), whole[1], strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_an_epoch_that_takes_long_prints_lines_within(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "Progress", functools.partial(loop.Progress, every=0.0))
    train(make_model(), make_run(tmp_path))
    assert "test epoch 4/4  step 2/3  loss" in capsys.readouterr().out


def test_a_finished_run_returns_at_once_with_its_last_state(whole):
    folder, expected = whole
    before = (folder / "metrics.jsonl").read_bytes()

    def unread(start):
        raise AssertionError("no batch is needed")

    model = make_model(seed=9)
    assert train(model, make_run(folder, batches=unread)) == EPOCHS
    assert (folder / "metrics.jsonl").read_bytes() == before
    for value, wanted in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_batches_are_asked_for_from_the_step_at_which_the_run_goes_on(tmp_path):
    with pytest.raises(RuntimeError):
        train(make_model(), make_run(tmp_path, [Stop(2)]))
    asked, run = [], make_run(tmp_path)

    def batches(start):
        asked.append(start)
        return run.batches(start)

    train(make_model(), make_run(tmp_path, batches=batches))
    assert asked == [2 * STEPS]


def broken(tmp_path):
    """A folder whose run was broken off in its third epoch, with two checkpoints."""
    with pytest.raises(RuntimeError):
        train(make_model(), make_run(tmp_path, [Stop(2)]))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("kind", ["data-00000-of-00001", "index"])
def test_a_corrupt_checkpoint_is_named_and_can_be_removed(kind, tmp_path):
    folder = broken(tmp_path)
    files = sorted(path.name for path in folder.iterdir())
    newest = f"ckpt-2.{kind}"
    assert newest in files
    (folder / newest).write_bytes(b"not a checkpoint")
    with pytest.raises(
        InputError, match=r"The checkpoint .*ckpt-2 cannot be restored: .+"
    ) as found:
        train(make_model(), make_run(tmp_path))
    assert "\n" not in str(found.value)
    assert "Remove its files to go on from the one before" in str(found.value)
    for path in folder.glob("ckpt-2.*"):
        path.unlink()
    assert train(make_model(), make_run(tmp_path)) == 1


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    broken(tmp_path)
    with pytest.raises(InputError, match="ckpt-2 cannot be restored"):
        train(make_model(units=5), make_run(tmp_path))


def test_only_the_last_checkpoints_are_kept(whole):
    names = {path.name.split(".")[0] for path in (whole[0] / "checkpoints").glob("ckpt-*")}
    assert names == {"ckpt-3", "ckpt-4"}
