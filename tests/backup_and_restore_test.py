"""`fit` with Keras' BackupAndRestore: what a killed process left is continued, data and records."""

import keras
import numpy as np
import pytest

import darts_tf
from tests.saved_models_test import assert_equal, dense, language, recurrent


class Killed(Exception):
    pass


class KillAt(keras.callbacks.Callback):
    """Ends a run as a kill does: no `on_train_end`, and no `on_epoch_end` of the others."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise Killed


def callbacks(folder, *more, save_freq="epoch"):
    return [
        *more,
        keras.callbacks.BackupAndRestore(folder / "backup", save_freq, delete_checkpoint=False),
    ]


def fit(make, *more, **options):
    """A model that was fitted; step by step, as a graph would take longer than all its steps."""
    keras.utils.set_random_seed(0)
    model, data = make()
    model.run_eagerly = True
    model.fit(data, verbose=0, callbacks=[*more], **{"epochs": 3, **options})
    return model


@pytest.mark.parametrize("make", [dense, recurrent, language])
def test_the_data_continues_where_it_was(make, tmp_path):
    with pytest.raises(Killed):
        fit(make, *callbacks(tmp_path), KillAt(1, 0))
    assert_equal(fit(make, *callbacks(tmp_path)), fit(make))


@pytest.mark.parametrize("killed", [0, 1])
def test_in_the_middle_of_an_epoch_the_data_continues_too(killed, tmp_path):
    """Keras begins the epoch again, so that the run ends some steps later."""
    backup = callbacks(tmp_path, save_freq=1)
    with pytest.raises(Killed):
        fit(dense, *backup, KillAt(1, killed))
    resumed = fit(dense, *callbacks(tmp_path, save_freq=1))
    done = 2 + killed + 1 + 2 * 2  # an epoch has 2 steps
    assert int(resumed.optimizer.iterations) == done
    assert_equal(resumed, fit(dense, steps_per_epoch=done, epochs=1))


def test_the_records_of_a_run_continue(tmp_path):
    """Its lines and rows, with no word of where it was to the callbacks that write them."""

    def records(folder):
        folder.mkdir(exist_ok=True)
        return [
            darts_tf.MetricsLog(folder / "metrics.jsonl"),
            darts_tf.AlphaHistory(folder / "alphas.npz"),
        ]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(dense, *records(whole))
    with pytest.raises(Killed):
        fit(dense, *records(parts), *callbacks(tmp_path), KillAt(2, 0))
    fit(dense, *records(parts), *callbacks(tmp_path))
    expected, found = ((f / "metrics.jsonl").read_text() for f in (whole, parts))
    assert found == expected and len(found.splitlines()) == 3
    expected, found = (darts_tf.genotype.load_alphas(f / "alphas.npz") for f in (whole, parts))
    for name, array in expected.items():
        assert len(array) == 3
        np.testing.assert_array_equal(found[name], array)
