"""The training loop: what resumes after an interruption is what would have been."""

import dataclasses
import functools
import json
import os
import signal

import keras
import numpy as np
import pytest

import darts_tf
from darts_tf.data import ArrayStream, evaluation_batches
from darts_tf.errors import InputError, StopRequested
from darts_tf.training import loop
from darts_tf.training.checkpoints import Saving

EPOCHS, STEPS = 4, 3
EVERY_STEP = Saving(minutes=0)


class Break(keras.callbacks.Callback):
    """Breaks a run off at a moment: (epoch, step whose end it is), or the name of a hook."""

    def __init__(self, at, by=None):
        super().__init__()
        self.at, self.by = at, by

    def strike(self):
        if self.by is None:
            raise RuntimeError("the machine went down")
        os.kill(os.getpid(), self.by)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.at == "first epoch begins":
            self.strike()

    def on_train_batch_end(self, batch, logs=None):
        if self.at == (self.epoch, batch):
            self.strike()

    def on_test_batch_end(self, batch, logs=None):
        if self.at == (self.epoch, "test") and batch == 1:
            self.strike()

    def on_train_end(self, logs=None):
        if self.at == "end":
            self.strike()


def make_model(seed=0, units=3):
    """Weights, momentum, running statistics, a random state and metrics: a checkpoint has all."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Input((2,)),
            keras.layers.Dense(units),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=seed),
            keras.layers.Dense(1),
        ]
    )
    model.compile(darts_tf.SGD(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def make_data():
    random = np.random.default_rng(0)
    x = random.normal(size=(STEPS * 4, 2)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:]


def make_run(folder, callbacks=(), batches=None, **options):
    x, y = make_data()
    return loop.Run(
        title="test",
        folder=folder,
        epochs=EPOCHS,
        batches=loop.Batches.of_stream(
            STEPS, batches or ArrayStream(x, y, batch_size=4, seed=1).batches
        ),
        validation_data=evaluation_batches(x, y, 5),
        schedule=darts_tf.cosine_schedule(0.1, 0.0, EPOCHS),
        callbacks=lambda first_epoch: list(callbacks),
        **options,
    )


def train(model, run):
    return loop.train(model, run, [model.optimizer])


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [v.value.numpy() for v in {id(v): v for v in variables}.values()]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(folder, model, whole):
    """Asserts that a finished run ended as the one without interruption, bit for bit."""
    for value, wanted in zip(state(model), whole[1], strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert metrics(folder) == metrics(whole[0])
    assert [line["epoch"] for line in metrics(folder)] == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without interruption: its folder and its last state."""
    folder = tmp_path_factory.mktemp("whole")
    model = make_model()
    assert train(model, make_run(folder)) == (0, 0)
    assert "val_loss" in metrics(folder)[0] and "loss" in metrics(folder)[0]
    return folder, state(model)


@pytest.mark.parametrize(
    "at, saving, begin, words",
    [
        ((0, 1), Saving(), (0, 0), None),
        ((1, 1), Saving(), (1, 0), "test resumes after epoch 1/4"),
        ((3, 0), Saving(), (3, 0), "test resumes after epoch 3/4"),
        ((0, 1), EVERY_STEP, (0, 1), "test resumes after step 1"),
        ((1, 1), EVERY_STEP, (1, 1), "test resumes after epoch 1/4, step 1"),
        ((2, 2), EVERY_STEP, (2, 2), "test resumes after epoch 2/4, step 2"),
        ((2, "test"), EVERY_STEP, (2, 2), "test resumes after epoch 2/4, step 2"),
    ],
)
def test_a_run_that_was_broken_off_ends_as_if_it_had_not_been(
    whole, at, saving, begin, words, tmp_path, capsys
):
    with pytest.raises(RuntimeError, match="the machine went down"):
        train(make_model(), make_run(tmp_path, [Break(at)], saving=saving))
    # Of another start, which must not matter once there is a checkpoint.
    model = make_model(seed=9 if words else 0)
    assert train(model, make_run(tmp_path)) == begin
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "resumes" in line] == ([words] if words else [])
    same(tmp_path, model, whole)


@pytest.mark.parametrize(
    "at, begin",
    [
        ((0, 0), (0, 1)),
        ((2, 1), (2, 2)),
        ((2, 2), (2, 3)),  # the epoch's evaluation is left to the resumed run
        ((1, "test"), (1, 3)),
        ("end", (4, 0)),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_after_its_step_and_nothing_is_repeated(
    whole, at, begin, number, tmp_path
):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(StopRequested, match=signal.Signals(number).name):
        train(make_model(), make_run(tmp_path, [Break(at, number)]))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    model = make_model(seed=9)
    assert train(model, make_run(tmp_path)) == begin
    same(tmp_path, model, whole)


def test_a_signal_before_the_first_step_stops_before_it(tmp_path):
    run = make_run(tmp_path, [Break("first epoch begins", signal.SIGTERM)])
    with pytest.raises(StopRequested):
        train(make_model(), run)
    assert not (tmp_path / "checkpoints").exists()  # nothing was done, so nothing is saved
    assert train(make_model(), make_run(tmp_path)) == (0, 0)


class Clock:
    """Each step takes a minute; nothing else takes time."""

    now = 0.0

    def __call__(self):
        return self.now


def test_checkpoints_within_an_epoch_are_minutes_apart(tmp_path):
    clock, saved = Clock(), []

    class Tick(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            clock.now += 60
            saved.append(sorted(p.stem for p in (tmp_path / "checkpoints").glob("*")))

    run = make_run(tmp_path, [Tick()], saving=Saving(minutes=2, keep=1), clock=clock)
    train(make_model(), run)
    # As seen at the end of each step, before what is saved then.
    assert saved[:5] == [[], [], ["000000-00000002"], ["000001-00000000"], ["000001-00000000"]]
    assert saved[5] == ["000001-00000002"]


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
    assert train(model, make_run(folder, batches=unread)) == (EPOCHS, 0)
    assert (folder / "metrics.jsonl").read_bytes() == before
    for value, wanted in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_batches_are_asked_for_from_the_step_at_which_the_run_goes_on(tmp_path):
    with pytest.raises(RuntimeError):
        train(make_model(), make_run(tmp_path, [Break((2, 1))], saving=EVERY_STEP))
    asked = []

    def batches(start):
        asked.append(start)
        return ArrayStream(*make_data(), batch_size=4, seed=1).batches(start)

    train(make_model(), make_run(tmp_path, batches=batches))
    assert asked == [2 * STEPS + 1]


def test_epochs_with_data_of_their_own_go_on_within_them(tmp_path, whole):
    """As those of a text, each of another length; the data ends with its epoch."""
    stream = ArrayStream(*make_data(), batch_size=4, seed=1)

    def steps(epoch):
        return (3, 1, 2, 3)[epoch]

    def start(epoch, step):
        return stream.batches(10 * epoch + step).take(steps(epoch) - step)

    batches = loop.Batches(steps, start, endless=False)
    ends = []
    for folder, breaks in (("whole", []), ("parts", [(0, 1), (2, 1)])):
        (tmp_path / folder).mkdir()
        for at in breaks:
            run = make_run(tmp_path / folder, [Break(at, signal.SIGTERM)])
            with pytest.raises(StopRequested):
                train(make_model(), dataclasses.replace(run, batches=batches))
        model = make_model()
        begin = train(model, dataclasses.replace(make_run(tmp_path / folder), batches=batches))
        assert begin == ((2, 2) if breaks else (0, 0))
        ends.append((state(model), metrics(tmp_path / folder)))
    for value, wanted in zip(ends[0][0], ends[1][0], strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert ends[0][1] == ends[1][1]


def test_a_checkpoint_of_another_network_or_other_settings_is_refused(tmp_path):
    with pytest.raises(RuntimeError):
        train(make_model(), make_run(tmp_path, [Break((1, 1))], settings={"seed": 3}))
    with pytest.raises(InputError, match="000001-00000000.checkpoint is of another network"):
        train(make_model(units=5), make_run(tmp_path, settings={"seed": 3}))
    with pytest.raises(InputError, match="is of other flags: seed was 3, now 4. Nothing was"):
        train(make_model(), make_run(tmp_path, settings={"seed": 4}))


def test_only_the_last_checkpoints_are_kept(whole):
    names = sorted(path.name for path in (whole[0] / "checkpoints").iterdir())
    assert names == [f"00000{epoch}-00000000.checkpoint" for epoch in (2, 3, 4)]
