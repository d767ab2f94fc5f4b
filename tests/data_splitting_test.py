"""Halves and samples by class: proportions, edges, what is said of classes that are missing."""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.data import pair, split
from darts_tf.data.splitting import sample, warn_if_by_class
from darts_tf.errors import InputError


def examples(labels):
    """Inputs that number themselves, with labels."""
    return np.arange(len(labels))[:, None], np.asarray(labels)


@pytest.mark.parametrize("portion", [0.5, 0.25, 0.9])
def test_each_class_is_divided_by_the_portion(portion):
    counts = [40, 7, 2, 1, 100, 13]
    x, y = examples(np.repeat(np.arange(6), counts))
    (a, a_labels), (b, b_labels) = split(x, y, portion, seed=3)
    assert sorted([*a[:, 0], *b[:, 0]]) == list(range(len(x)))
    assert len(a) == int(portion * len(x))
    for half, labels in ((a, a_labels), (b, b_labels)):
        np.testing.assert_array_equal(labels, y[half[:, 0]])
        assert (np.diff(half[:, 0]) < 0).any()  # not in stored order
    first, second = (np.bincount(labels, minlength=6) for labels in (a_labels, b_labels))
    assert (np.abs(first - portion * np.array(counts)) <= 2).all()
    assert (first > 0).all() and (second[:3] > 0).all() and second[3] == 0


def test_equal_classes_are_divided_as_scikit_learn_does():
    from sklearn.model_selection import train_test_split

    y = np.tile(np.arange(10), 50)
    (_, a), (_, b) = split(*examples(y), 0.5)
    c, d = train_test_split(y, test_size=0.5, stratify=y, random_state=0)
    for own, other in ((a, c), (b, d)):
        assert np.bincount(own).tolist() == np.bincount(other).tolist() == [25] * 10


def test_the_seed_decides_alone():
    x, y = examples(np.arange(60) % 3)
    (one, _), (same, _), (other, _) = (split(x, y, seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert set(one[:, 0]) != set(other[:, 0])
    np.random.seed(5)  # nor the global state
    np.testing.assert_array_equal(split(x, y, seed=1)[0][0], one)


@pytest.mark.parametrize("shape", [(30, 3), (30, 1)])
def test_one_hot_and_column_labels_are_classes_too(shape):
    numbers = np.repeat([0, 1, 2], 10)
    y = np.eye(3, dtype=np.float32)[numbers] if shape[1] == 3 else numbers[:, None]
    (x, got), _ = split(np.arange(30)[:, None], y)
    assert np.bincount(numbers[x[:, 0]]).tolist() == [5, 5, 5]
    np.testing.assert_array_equal(got, y[x[:, 0]])


def test_labels_that_are_no_classes_are_divided_at_random():
    x, y = examples(np.linspace(0, 1, 50))
    (a, _), (b, _) = split(x, y)
    assert (len(a), len(b)) == (25, 25) and 5 < (a < 25).sum() < 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((examples([0, 1]), 1.0), "train_portion must lie .* excluded; received 1.0"),
        ((examples([0, 1]), 0.1), "train_portion 0.1 of 2 .* leaves one part .* empty"),
        ((examples([0, 1]), 0.5, -1), "seed must be a whole number of 0 or more. Received: -1"),
        (((np.zeros((3, 1)), [0, 1]), 0.5), "the data to split has 3 inputs but 2 labels"),
    ],
)
def test_what_cannot_be_split(arguments, words):
    with pytest.raises(InputError, match=words):
        split(*arguments[0], *arguments[1:])


def test_samples_grow_and_have_every_class_as_soon_as_they_can():
    labels = np.repeat(np.arange(5), [50, 1, 30, 15, 4])
    before = set()
    for count in (1, 2, 5, 6, 20, 60, 99, 100, 1000):
        kept = sample(labels, count)
        assert len(set(kept)) == len(kept) == min(count, 100) and (np.diff(kept) > 0).all()
        assert before <= set(kept)
        before = set(kept)
        assert len(set(labels[kept])) == min(count, 5)
    assert np.bincount(labels[sample(labels, 50)]).tolist() == [25, 1, 15, 7, 2]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_which_classes_a_tiny_sample_has_is_not_decided_by_their_numbers(count):
    labels = np.repeat(np.arange(10), 5)
    seen = {tuple(labels[sample(labels, count, seed)]) for seed in range(20)}
    assert len(seen) > 5 and all(len(set(classes)) == count for classes in seen)


def halves(train, valid):
    return pair(examples(train), examples(valid), batch_size=2)


def test_halves_without_a_common_class_are_refused():
    with pytest.raises(InputError, match="valid holds the classes 2, 3, which train lacks: the we"):
        halves([0, 1] * 8, [2, 3] * 8)
    with pytest.raises(InputError, match="valid holds the class 2, which train .* darts_tf.split"):
        halves([0, 1] * 8, [0, 1, 2] * 6)
    with pytest.raises(InputError, match="valid holds the class 2"):
        eye = np.eye(4, dtype=np.float32)
        halves(eye[[0, 1] * 8], eye[[0, 1, 2] * 6])
    with pytest.raises(InputError, match="valid holds the class 2"):
        halves(np.array([[0], [1]] * 8), np.array([[0], [1], [2]] * 6))
    with pytest.raises(InputError, match=r"the classes 10, 11, .* 19 and 30 more, which"):
        halves([0] * 60, np.repeat(np.arange(10, 50), 4))


def test_halves_of_one_class_are_refused():
    with pytest.raises(InputError, match="train and valid hold one class only, the class 7: what"):
        halves([7] * 5, [7] * 4)


def test_a_class_that_validation_lacks_is_said_and_named():
    with pytest.warns(UserWarning, match="^valid lacks the class 2, which train holds: the archit"):
        assert halves([0, 1, 2] * 6, [0, 1] * 8).steps_per_epoch == 9


@pytest.mark.parametrize(
    "labels",
    [
        (np.arange(16), np.arange(16, 30)),  # numbers to be estimated, all different
        (np.linspace(0, 1, 16), np.linspace(1, 2, 10)),
        (np.ones((16, 3), np.float32), np.zeros((10, 3), np.float32)),  # not one-hot
        ([0, 1, 2] * 6, [2, 1, 0] * 4),
    ],
)
def test_nothing_is_said_of_what_is_no_fault(labels, recwarn):
    halves(*labels)
    assert not [w for w in recwarn if "valid" in str(w.message)]


def test_few_classes_in_the_first_of_many_examples_are_said(recwarn):
    generator = np.random.default_rng(0)
    weights = 1 / np.arange(1, 1001)  # as unbalanced as words are
    for labels in (
        generator.integers(0, 1000, 512),
        generator.choice(1000, 512, p=weights / weights.sum()),
        generator.integers(0, 2, 512),
    ):
        warn_if_by_class("mine", labels, max(labels) + 1, 10**6)
    assert not recwarn
    # Sixteen files are read in turn, each in blocks of sixteen examples.
    with pytest.warns(UserWarning, match="first 512 of 1,281,167 .* 'mine' hold 16 of 1000"):
        warn_if_by_class("mine", np.repeat(np.arange(16), 32), 1000, 1281167)


def read(dataset, capfd):
    """What is said on the standard error while an epoch of a data set is read, from step 1 on."""
    capfd.readouterr()
    for _ in pair(dataset, dataset).stream(1).take(int(dataset.cardinality()) + 1):
        pass
    return [line for line in capfd.readouterr().err.splitlines() if "warning" in line]


@pytest.mark.parametrize("kind", ["integers", "columns", "one-hot", "float"])
def test_a_data_set_stored_class_by_class_is_noticed_in_the_first_batches(kind, capfd):
    y = np.repeat([3, 1], 100)
    labels = {
        "integers": y,
        "columns": y[:, None],
        "one-hot": np.eye(4, dtype=np.float32)[y],
        "float": y.astype(np.float32),
    }[kind]
    stored = tf.data.Dataset.from_tensor_slices((np.zeros((200, 2)), labels))
    lines = read(stored.batch(20), capfd)
    assert len(lines) == 2  # each half once, not once an epoch
    assert "warning: the first 40 examples of train are all of class 3. If they are" in lines[0]
    assert "of valid are all of class 3" in lines[1]
    assert read(stored.shuffle(200, seed=1).batch(20), capfd) == []
    # A buffer that is too small does not help.
    assert len(read(stored.shuffle(20, seed=1).batch(20), capfd)) == 2


def test_of_few_examples_or_of_windows_of_words_nothing_is_said(capfd):
    for labels in (np.repeat([0, 1], [31, 9]), np.zeros((40, 5), np.int32)):
        x = np.zeros((len(labels), 2))
        assert read(tf.data.Dataset.from_tensor_slices((x, labels)).batch(31), capfd) == []
