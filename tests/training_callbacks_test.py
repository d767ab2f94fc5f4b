"""Schedules, records and guards, each on a small model or on the calls that Keras makes."""

import io
import json
import os
import types

import keras
import numpy as np
import pytest

import darts_tf
from darts_tf.errors import InputError
from darts_tf.genotype import alpha_file
from darts_tf.training.callbacks import (
    AlphaHistory,
    DropPathSchedule,
    GenotypeFile,
    MetricsLog,
    Progress,
    duration,
)


def line_model():
    """A line through one input, compiled."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(darts_tf.SGD(0.5, clip_norm=None), "mse")
    return model


def zeros(count=6):
    return np.zeros((count, 1), np.float32), np.zeros((count, 1), np.float32)


def attached(callback, **model):
    callback.set_model(types.SimpleNamespace(**model))
    return callback


# ------------------------------------------------------------------------------------ drop path


def test_drop_path_follows_the_published_ramp():
    probability = keras.Variable(1.0)
    schedule = attached(DropPathSchedule(0.2, 600), drop_path_prob=probability)
    seen = []
    for epoch in (0, 1, 300, 599):
        schedule.on_epoch_begin(epoch)
        seen.append(float(probability.value))
    np.testing.assert_allclose(seen, [0, 0.2 / 600, 0.1, 0.2 * 599 / 600], rtol=1e-6)
    np.testing.assert_allclose(seen[1::2], [0.000333, 0.199667], rtol=0, atol=5e-7)


def test_drop_path_is_set_on_the_network_within_an_evaluation():
    probability = keras.Variable(0.0)
    network = types.SimpleNamespace(drop_path_prob=probability)
    attached(DropPathSchedule(0.5, 10), network=network).on_epoch_begin(4)
    np.testing.assert_allclose(float(probability.value), 0.2, rtol=1e-6)


def test_drop_path_refuses_a_model_without_it():
    callback = DropPathSchedule(0.2, 10)
    with pytest.raises(InputError, match="needs a model with drop path.*Received: Sequential"):
        line_model().fit(*zeros(), verbose=0, callbacks=[callback])


@pytest.mark.parametrize("largest", [-0.1, 1.0])
def test_drop_path_probability_must_be_one(largest):
    with pytest.raises(InputError, match=rf"must be in \[0, 1\). Received: {largest}"):
        DropPathSchedule(largest, 10)


# -------------------------------------------------------------------------------------- records


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_log_has_one_line_per_epoch_with_rate_and_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    schedule = keras.callbacks.LearningRateScheduler(darts_tf.exponential_schedule(0.5, 0.5))
    x, y = zeros()
    history = line_model().fit(
        x, y, validation_data=(x, y), epochs=3, verbose=0, callbacks=[schedule, MetricsLog(path)]
    )
    lines = read_lines(path)
    assert [line.pop("epoch") for line in lines] == [0, 1, 2]
    np.testing.assert_allclose([line["learning_rate"] for line in lines], [0.5, 0.25, 0.125])
    for name in ("loss", "val_loss"):
        assert [line[name] for line in lines] == history.history[name]
    assert all(set(line) == {"learning_rate", "loss", "val_loss"} for line in lines)


def test_metrics_log_drops_what_will_be_repeated_and_keeps_the_rest(tmp_path):
    path = tmp_path / "metrics.jsonl"
    earlier = [json.dumps({"epoch": epoch, "loss": 10.0 + epoch}) for epoch in range(4)]
    path.write_text("\n".join(earlier) + "\n" + '{"epoch": 4, "lo')  # the machine went down
    line_model().fit(*zeros(), epochs=4, initial_epoch=2, verbose=0, callbacks=[MetricsLog(path)])
    lines = read_lines(path)
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [line["loss"] for line in lines][:2] == [10, 11]
    assert all(line["loss"] < 1 for line in lines[2:])


def test_metrics_log_of_a_new_run_starts_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0, "loss": 99}\n')
    line_model().fit(*zeros(), epochs=1, verbose=0, callbacks=[MetricsLog(path)])
    assert len(read_lines(path)) == 1 and read_lines(path)[0]["loss"] < 1


def alphas():
    return [
        keras.Variable(np.zeros((2, 3), np.float32), name="alphas_normal", trainable=False),
        keras.Variable(np.zeros((5, 3), np.float32), name="alphas_reduce", trainable=False),
    ]


def record(path, epochs, first_epoch=0, scale=1.0):
    """Runs the history over epochs in which all alphas are scale * (epoch + 1)."""
    variables = alphas()
    supernet = types.SimpleNamespace(architecture_parameters=variables)
    history = attached(AlphaHistory(path, first_epoch), supernet=supernet)
    history.on_train_begin()
    for epoch in epochs:
        history.on_epoch_begin(epoch)
        for variable in variables:
            variable.assign(np.full(variable.shape, scale * (epoch + 1)))
        history.on_epoch_end(epoch)
    with np.load(path) as saved:
        return {name: saved[name] for name in saved.files}


def test_alpha_history_has_the_alphas_after_every_epoch(tmp_path):
    arrays = record(tmp_path / "alphas.npz", range(3))
    assert set(arrays) == {"epoch", "normal", "reduce"}
    np.testing.assert_array_equal(arrays["epoch"], [0, 1, 2])
    for name, shape in (("normal", (3, 2, 3)), ("reduce", (3, 5, 3))):
        assert arrays[name].shape == shape
        np.testing.assert_array_equal(arrays[name][:, 0, 0], [1, 2, 3])
    assert os.listdir(tmp_path) == ["alphas.npz"]


def test_alpha_history_goes_on_where_the_run_does(tmp_path):
    path = tmp_path / "alphas.npz"
    record(path, range(4))
    arrays = record(path, range(2, 5), first_epoch=2, scale=-1.0)
    np.testing.assert_array_equal(arrays["epoch"], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(arrays["reduce"][:, 4, 2], [1, 2, -3, -4, -5])
    anew = record(path, range(1))
    np.testing.assert_array_equal(anew["epoch"], [0])


def recorded(path, names, shape=(1, 2), dtype="float32", epochs=2):
    """What a history of alphas with these names writes, read back."""
    variables = [
        keras.Variable(np.full(shape, index), dtype=dtype, trainable=False, name=name)
        for index, name in enumerate(names)
    ]
    supernet = types.SimpleNamespace(architecture_parameters=variables)
    history = attached(AlphaHistory(path), supernet=supernet)
    history.set_params({"epochs": epochs})
    history.on_train_begin()
    for epoch in range(epochs):
        history.on_epoch_begin(epoch)
        history.on_epoch_end(epoch)
    return darts_tf.genotype.load_alphas(path)


ODD = ["mix", "mix", "alphas_mix", "mix_1", "epoch", "file", "allow_pickle", "alphas_", "ü .npy"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_alphas_of_any_names_and_types_come_back_each(dtype, tmp_path):
    arrays = recorded(tmp_path / "alphas.npz", ODD, dtype=dtype)
    assert list(arrays.pop("epoch")) == [0, 1]
    assert len(arrays) == len(ODD) and {"mix", "mix_1", "mix_2"} < set(arrays)
    found = [int(array[0, 0, 0]) for array in arrays.values()]
    assert found == list(range(len(ODD)))
    assert all(array.shape == (2, 1, 2) for array in arrays.values())


def test_as_many_alphas_as_can_be_read_back_are_recorded_and_no_more(tmp_path, monkeypatch):
    path = tmp_path / "alphas.npz"
    most = alpha_file.MOST_ARRAYS
    assert len(recorded(path, ["edge"] * (most - 1), epochs=1)) == most
    with pytest.raises(InputError, match=f"{most + 1} arrays .* files of at most {most} arrays"):
        recorded(path, ["edge"] * most, epochs=1)
    monkeypatch.setattr(alpha_file, "LARGEST", 100_000)
    recorded(path, ["edge"], (90, 100), epochs=2)
    with pytest.raises(
        InputError, match="and 110,024 bytes; files of at most"
    ):  # before the first epoch
        recorded(path, ["edge"], (90, 100), epochs=3)


def test_alphas_of_another_search_are_not_continued(tmp_path):
    path = tmp_path / "alphas.npz"
    recorded(path, ["mix"])
    with pytest.raises(InputError, match="does not hold the first 2 epochs.*: it holds other alph"):
        record(path, range(2, 3))


class Vector(keras.metrics.Metric):
    def update_state(self, *_, **__):
        pass

    def result(self):
        return keras.ops.array([0.5, float("nan")])


def test_metrics_of_several_numbers_and_lines_of_others_are_no_obstacle(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 0, "x": [1]}\n["epoch"]\n{"epoch": 1}\n\xff')
    model = line_model()
    model.compile("sgd", "mse", metrics=[Vector(name="v \u2028 ä")])
    model.fit(*zeros(), initial_epoch=1, epochs=3, verbose=0, callbacks=[MetricsLog(path)])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert lines[0] == {"epoch": 0, "x": [1]} and [line["epoch"] for line in lines] == [0, 1, 2]
    np.testing.assert_array_equal(lines[2]["v \u2028 ä"], [0.5, np.nan])


def test_genotype_file_holds_the_present_genotype_and_where_it_came_from(tmp_path):
    path = tmp_path / "genotype.json"
    nodes = [[("skip_connect", 0), ("max_pool_3x3", 1)]]
    found = darts_tf.Genotype(nodes, [2], nodes, [2])
    callback = attached(GenotypeFile(path, {"seed": 3}), derive=lambda: found)
    callback.on_epoch_end(4, {"loss": np.float32(0.25)})
    assert darts_tf.genotype.load(path) == found
    assert darts_tf.genotype.load_provenance(path) == {
        "seed": 3,
        "epochs_done": 5,
        "metrics": {"loss": 0.25},
    }


# ------------------------------------------------------------------------------------- progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_progress_prints_epochs_and_now_and_then_within():
    stream, clock = io.StringIO(), Clock()
    progress = Progress("search", 3, every=30, stream=stream, clock=clock)
    progress.set_params({"steps": 5})
    progress.on_epoch_begin(0)
    for now, batch in ((10, 0), (35, 1), (60, 2), (65, 3)):
        clock.now = now
        progress.on_train_batch_end(batch, {"loss": 0.5, "learning_rate": 0.1})
    clock.now = 100
    progress.on_epoch_end(0, {"loss": 0.5, "val_accuracy": 0.25, "learning_rate": 0.1})
    progress.on_epoch_begin(1)
    clock.now = 150
    progress.on_epoch_end(1, {"loss": 0.4})
    progress.on_epoch_begin(2)
    clock.now = 220
    progress.on_epoch_end(2, {"loss": 0.3})
    assert stream.getvalue().splitlines() == [
        "search epoch 1/3  step 2/5  loss 0.5000",
        "search epoch 1/3  step 4/5  loss 0.5000",
        "search epoch 1/3  100.0 s  loss 0.5000  val_accuracy 0.2500  remaining 3 min 20 s",
        # The first epoch, with its tracing, no longer counts.
        "search epoch 2/3  50.0 s  loss 0.4000  remaining 50 s",
        "search epoch 3/3  70.0 s  loss 0.3000  remaining 0 s",
    ]


def test_progress_of_a_run_that_goes_on_counts_what_is_left():
    stream, clock = io.StringIO(), Clock()
    progress = Progress("train", 10, stream=stream, clock=clock)
    progress.on_epoch_begin(6)
    clock.now = 20
    progress.on_epoch_end(6, {})
    assert stream.getvalue() == "train epoch 7/10  20.0 s  remaining 1 min 0 s\n"


def test_progress_prints_to_standard_output_during_fit(capsys):
    line_model().fit(*zeros(), epochs=2, verbose=0, callbacks=[Progress("fit", 2)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["fit epoch 1/2", "fit epoch 2/2"]
    assert all("loss 0." in line and "remaining" in line for line in lines)


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (18_600, "5 h 10 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
