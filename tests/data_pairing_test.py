"""Streams and pairings: coverage, determinism, exact continuation, errors."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.data import (
    ArrayStream,
    Augmentation,
    augmentation,
    evaluation_batches,
    pair,
)
from darts_tf.errors import InputError

AUGMENTATION = Augmentation(padding=2, flip=True, cutout=4, fill=(125.3, 100, 75))


def half(count, seed=0, side=8):
    """Images, and labels that number them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count)


def take(dataset, count):
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def labels(stream, count, start_step=0):
    return [y for _, y in take(stream.batches(start_step), count)]


def test_train_epochs_keep_the_smaller_last_batch():
    """10 images, batches of 4: 4, 4, 2, and every image once an epoch, in a new order each time."""
    stream = ArrayStream(*half(10), batch_size=4)
    assert stream.steps_per_epoch == 3
    batches = labels(stream, 6)
    assert [len(y) for y in batches] == [4, 4, 2] * 2
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist() and first.tolist() != list(range(10))


def test_published_search_epoch_has_391_batches():
    x, y = np.zeros((25000, 1), np.uint8), np.arange(25000)
    stream = ArrayStream(x, y, batch_size=64)
    assert stream.steps_per_epoch == 391
    assert [len(b) for b in labels(stream, 3, start_step=389)] == [64, 40, 64]


def test_drop_leaves_the_smaller_batch_out():
    stream = ArrayStream(*half(10), batch_size=4, remainder="drop")
    assert stream.steps_per_epoch == 2
    batches = labels(stream, 6)
    assert [len(y) for y in batches] == [4] * 6
    for epoch in range(3):
        assert len(set(np.concatenate(batches[2 * epoch : 2 * epoch + 2]))) == 8
    assert stream.batches().element_spec[0].shape == (4, 8, 8, 3)


def test_carry_covers_everything_once_in_each_sweep_with_full_batches():
    stream = ArrayStream(*half(10), batch_size=4, remainder="carry")
    batches = labels(stream, 15)
    assert all(len(y) == 4 for y in batches)
    sweeps = np.concatenate(batches).reshape(6, 10)
    assert all(sorted(sweep) == list(range(10)) for sweep in sweeps)
    assert len({tuple(sweep) for sweep in sweeps}) == 6


def test_batches_are_the_transformed_images_of_their_labels():
    x, y = half(10)
    stream = ArrayStream(x, y, batch_size=4, seed=3, augmentation=AUGMENTATION)
    first = 0
    for got, index in take(stream.batches(), 7):
        positions = np.arange(first, first + len(index))
        first += len(index)
        expected = augmentation.augment(x[index], AUGMENTATION, 3, positions)
        np.testing.assert_array_equal(got, expected)
        assert (got.dtype, index.dtype) == (np.float32, np.int32)


def test_cutout_fills_with_the_mean_of_the_images_by_itself():
    x, y = half(12)
    stream = ArrayStream(x, y, batch_size=12, augmentation=Augmentation(0, False, 6))
    ((got, index),) = take(stream.batches(), 1)
    filled = (got != x[index]).any(-1)
    assert filled.mean() > 0.2
    np.testing.assert_allclose(got[filled], np.broadcast_to(x.mean((0, 1, 2)), (filled.sum(), 3)))


def test_images_keep_their_scale():
    x, y = half(4)
    augmented = Augmentation(2, True)
    assert take(ArrayStream(x, y, 4, augmentation=augmented).batches(), 1)[0][0].dtype == np.uint8
    for scaled in (x / np.float32(255), 257 * x.astype(np.uint16)):
        ((got, _),) = take(ArrayStream(scaled, y, 4, augmentation=augmented).batches(), 1)
        assert got.dtype == scaled.dtype and set(got.ravel()) <= {0, *scaled.ravel()}


def test_an_image_is_augmented_anew_in_every_epoch():
    stream = ArrayStream(*half(8, side=16), batch_size=8, augmentation=AUGMENTATION)
    (a, ya), (b, yb) = take(stream.batches(), 2)
    different = (a[np.argsort(ya)] != b[np.argsort(yb)]).any((1, 2, 3))
    assert different.sum() >= 7


@pytest.mark.parametrize("remainder", ["keep", "drop", "carry"])
@pytest.mark.parametrize("start_step", [3, 8])
def test_a_stream_continues_exactly(remainder, start_step):
    """In mid-epoch and at the boundaries of epochs, augmentation included."""
    stream = ArrayStream(
        *half(10),
        batch_size=4,
        seed=7,
        augmentation=AUGMENTATION,
        remainder=remainder,
    )
    whole = take(stream.batches(), start_step + 5)
    same(take(stream.batches(start_step), 5), whole[start_step:])


@pytest.mark.parametrize("start_step", [5, 12])
def test_a_pairing_continues_exactly(start_step):
    pairing = pair(
        half(18),
        half(11, seed=1),
        batch_size=4,
        seed=2,
        augmentation=AUGMENTATION,
    )
    whole = take(pairing.stream(), start_step + 6)
    same(take(pairing.stream(start_step), 6), whole[start_step:])


def test_a_pairing_pairs_published_epochs_with_full_validation_batches():
    pairing = pair(half(10), half(7, seed=1), batch_size=4)
    assert pairing.steps_per_epoch == 3
    pairs = take(pairing.stream(), 7)
    assert [(len(y), len(v)) for (_, y), (_, v) in pairs] == [(4, 4), (4, 4), (2, 4)] * 2 + [(4, 4)]
    sweeps = np.concatenate([v for _, (_, v) in pairs]).reshape(4, 7)
    assert all(sorted(sweep) == list(range(7)) for sweep in sweeps)
    assert pair(half(10), half(7), batch_size=4, drop_remainder=True).steps_per_epoch == 2


def test_the_seed_decides_and_the_halves_differ():
    def order(seed):
        data = half(32)
        (_, y), (_, v) = take(pair(data, data, batch_size=32, seed=seed).stream(), 1)[0]
        return y.tolist(), v.tolist()

    assert order(0) == order(0)
    assert order(0)[0] != order(1)[0] and order(0)[1] != order(1)[1]
    assert order(0)[0] != order(0)[1]


def test_arrays_pass_unchanged_without_a_transform():
    x = np.random.default_rng(0).normal(size=(6, 5))  # float64, not images
    y = np.eye(3)[[0, 1, 2, 0, 1, 2]].astype(np.float32)  # one-hot
    (got, labels_), _ = take(pair((x, y), (x, y), batch_size=6).stream(), 1)[0]
    assert (got.dtype, labels_.dtype) == (np.float64, np.float32)
    order = [np.flatnonzero((x == row).all(1))[0] for row in got]
    np.testing.assert_array_equal(labels_, y[order])


def test_evaluation_sees_every_example_once_in_order():
    x, y = half(10)
    dataset = evaluation_batches(x, y, 4)
    assert int(dataset.cardinality()) == 3
    batches = list(dataset.as_numpy_iterator())
    assert [len(b) for _, b in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([b for b, _ in batches]), x)
    np.testing.assert_array_equal(np.concatenate([b for _, b in batches]), y)


def batched(count, batch_size, **shuffle):
    dataset = tf.data.Dataset.from_tensor_slices(half(count))
    if shuffle:
        dataset = dataset.shuffle(count, **shuffle)
    return dataset.batch(batch_size)


def test_data_sets_are_repeated_and_continue_exactly():
    """As in a new process, the data sets are built anew: `shuffle` counts its iterations."""

    def pairing():
        return pair(batched(10, 4, seed=1), batched(6, 4, seed=2))

    assert pairing().steps_per_epoch == 3
    whole = take(pairing().stream(), 8)
    assert [(len(y), len(v)) for (_, y), (_, v) in whole[:3]] == [(4, 4), (4, 2), (2, 4)]
    same(take(pairing().stream(4), 4), whole[4:])


def test_arrays_and_data_sets_mix():
    pairing = pair(half(10), batched(6, 3), batch_size=5, augmentation=AUGMENTATION)
    (x, _), (x_valid, _) = take(pairing.stream(), 1)[0]
    assert (x.dtype, x_valid.dtype) == (np.float32, np.uint8)
    endless = pair(half(10), batched(6, 3).repeat(), batch_size=5)
    assert len(take(endless.stream(), 5)) == 5


def unknown(dataset):
    return dataset.filter(lambda x, y: True)


def float_images(index):
    x = np.zeros((6, 8, 8, 3), np.float32)
    x[index:, 0, 0, 0] = np.nan
    return x, np.arange(6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pair(half(3), half(9), batch_size=4), "A batch of 4 .*: train has only 3;"),
        (lambda: pair(half(9), half(3), batch_size=4), "A batch of 4 .*: valid has only 3;"),
        (
            lambda: pair(half(9), half(9), batch_size=0),
            "batch_size must be .* 1 or more. Received: 0",
        ),
        (lambda: pair(half(9), half(9), batch_size=2.0), "batch_size .* Received: 2.0"),
        (lambda: pair(half(9), half(9), batch_size=2, seed=-1), "seed must be .* Received: -1"),
        (
            lambda: pair(half(9), half(9)[0], batch_size=2),
            "valid must be a tuple .*; received ndarray",
        ),
        (
            lambda: pair((half(9)[0], np.arange(8)), half(9)),
            "train has 9 inputs but 8 labels",
        ),
        (lambda: pair(half(0), half(9)), r"train is empty: received shapes \(0, 8, 8, 3\)"),
        (
            lambda: pair(half(9), (np.zeros(9), np.arange(9)), batch_size=2),
            r"valid must have inputs of shape \(N, ...\) .* received shapes \(9,\) and \(9,\)",
        ),
        (
            lambda: pair((np.zeros((9, 4)), np.arange(9)), half(9), augmentation=AUGMENTATION),
            r"train must be images of shape \(N, height, width, channels\) .* shape \(9, 4\)",
        ),
        (
            lambda: pair((np.array([["a"]]), [0]), half(9)),
            "inputs of train must be numbers; received dtype <U1",
        ),
        (
            lambda: pair(([[1, 2], [3]], [0, 1]), half(9)),
            "train holds examples of different shapes",
        ),
        (
            lambda: pair(float_images(4), half(9), batch_size=2),
            r"input of example 4 of train is not finite \(NaN or infinity\)",
        ),
        (
            lambda: pair(half(9), (half(2)[0], np.array([1.0, np.inf])), batch_size=2),
            "label of example 1 of valid is not finite",
        ),
        (
            lambda: pair(half(9), half(9), batch_size=2, augmentation=Augmentation(cutout=8)),
            "cutout=8 covers the whole of images of 8x8 px: it must be less than 8, and 0 leaves",
        ),
        (
            lambda: pair(unknown(batched(9, 3)), half(9), batch_size=2),
            r"train is of unknown length, .* train.apply\(tf.data.experimental.assert_cardinality",
        ),
        (
            lambda: pair(batched(9, 3).repeat(), half(9), batch_size=2),
            r"train is endless, .* with take\(number_of_batches\)",
        ),
        (
            lambda: pair(half(9), tf.data.Dataset.from_tensor_slices(half(9)), batch_size=2),
            r"valid must yield batches, .* call valid.batch\(batch_size\) first",
        ),
        (
            lambda: pair(half(9), tf.data.Dataset.range(9).batch(3), batch_size=2),
            r"valid must yield pairs \(inputs, labels\)",
        ),
        (lambda: pair(half(9), batched(9, 3).take(0), batch_size=2), "valid is empty"),
        *(
            (
                lambda option=option: pair(batched(9, 3), batched(9, 3), **option),
                f"apply to arrays. Received two tf.data.Dataset and {words}",
            )
            for option, words in (
                ({"batch_size": 3}, "batch_size=3"),
                ({"seed": 0}, "seed=0"),
                ({"seed": 1, "drop_remainder": True}, "seed=1, drop_remainder=True"),
                ({"augmentation": AUGMENTATION}, "augmentation=Augmentation"),
            )
        ),
        (
            lambda: pair(half(9), half(9), batch_size=3).stream(-1),
            "start_step must be .* 0 or more. Received: -1",
        ),
        (
            lambda: ArrayStream(*half(9), batch_size=3, remainder="pad"),
            "Unknown remainder 'pad'. Known: carry, drop, keep.",
        ),
    ],
)
def test_errors(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_stated_cardinality_is_accepted():
    stated = unknown(batched(9, 3)).apply(tf.data.experimental.assert_cardinality(3))
    assert pair(stated, half(9), batch_size=2).steps_per_epoch == 3
