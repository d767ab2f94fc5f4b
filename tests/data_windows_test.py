"""Windows of text: lengths, rates, pairs, and that they are functions of (seed, epoch)."""

import numpy as np
import pytest

from darts_tf.data.windows import PairedWindows, TrainWindows, evaluation_windows, rows_of
from darts_tf.errors import InputError

TEXT = np.arange(1000, dtype=np.int32)


def test_rows_are_contiguous_pieces_of_the_text():
    rows = rows_of(np.arange(11), 2)
    assert rows.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(InputError, match="A batch of 4 rows needs at least 12 words; text has 11"):
        rows_of(np.arange(11), 4)


def test_windows_of_a_search_are_35_long_and_sometimes_17():
    windows = TrainWindows(np.zeros(400_000, np.int32), 4, lengths="search").windows(0)
    drawn = np.array([window.drawn for window in windows])
    assert set(drawn) == {35, 17}
    assert np.mean(drawn == 17) == pytest.approx(0.05, abs=0.02)


def test_windows_of_a_training_are_normal_numbers_around_the_base():
    windows = TrainWindows(np.zeros(400_000, np.int32), 4).windows(0)
    drawn = np.array([window.drawn for window in windows])
    assert drawn.min() >= 5 and drawn.max() <= 55
    # The mean of int(Normal(35, 5)) is 34.5; a twentieth has half of it.
    assert drawn.mean() == pytest.approx(0.95 * 34.5 + 0.05 * 17, abs=0.6)
    assert np.std(drawn[drawn > 25]) == pytest.approx(5, abs=1)


@pytest.mark.parametrize("lengths", ["search", "train"])
def test_an_epoch_goes_through_the_text_once_and_in_order(lengths):
    stream = TrainWindows(TEXT, 2, 10, 7, lengths)
    windows, batches = stream.windows(3), list(stream.batches(3))
    assert len(batches) == len(windows) == int(stream.batches(3).cardinality())
    read = []
    for window, (x, y) in zip(windows, batches, strict=True):
        assert x.shape == y.shape == (2, window.length)
        assert x[0, 0] == window.start
        np.testing.assert_array_equal(x + 1, y)
        read.append(x.numpy())
    read = np.concatenate(read, 1)
    np.testing.assert_array_equal(read, stream.rows[:, : read.shape[1]])
    # It ends where less than two words are left.
    assert read.shape[1] >= stream.rows.shape[1] - 2 and windows[-1].length >= 1
    rates = stream.rates(3, 20.0)
    assert rates == [20.0 * window.drawn / 10 for window in windows]


def test_windows_are_a_function_of_seed_and_epoch():
    streams = [TrainWindows(TEXT, 2, 10, seed) for seed in (1, 1, 2)]
    assert streams[0].windows(5) == streams[1].windows(5)
    assert streams[0].windows(5) != streams[0].windows(6)
    assert streams[0].windows(5) != streams[2].windows(5)


def test_a_search_pairs_each_window_with_one_of_the_validation_text():
    train = TrainWindows(TEXT, 2, 10, 3, "search")
    paired = PairedWindows(train, np.arange(2000, 2050, dtype=np.int32))
    last = 24  # rows of 25 words: 24 have a next one
    for window, ((x, _), (x_valid, y_valid)) in zip(
        train.windows(1), paired.batches(1), strict=True
    ):
        assert x[0, 0] == window.start
        start = window.start % last
        assert x_valid[0, 0] == 2000 + start and x_valid.shape == (2, min(10, last - start))
        np.testing.assert_array_equal(y_valid, x_valid + 1)


def test_an_evaluation_reads_every_word_that_has_one_before_it():
    windows = list(evaluation_windows(TEXT[:47], 2, 10))
    assert [x.shape[1] for x, _ in windows] == [10, 10, 2]
    labels = np.concatenate([y for _, y in windows], 1)
    np.testing.assert_array_equal(labels, rows_of(TEXT[:47], 2)[:, 1:])


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="bptt must be a whole number of 2 or more. Received: 1"):
        TrainWindows(TEXT, 2, 1)
    with pytest.raises(InputError, match="Unknown lengths of windows 'even'. Known: search, train"):
        TrainWindows(TEXT, 2, lengths="even")
    with pytest.raises(InputError, match="600 rows needs .* the training text has 1000"):
        TrainWindows(TEXT, 600)
    with pytest.raises(InputError, match="the validation text has 5"):
        PairedWindows(TrainWindows(TEXT, 2), TEXT[:5])
