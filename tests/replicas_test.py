"""How global batches are dealt out, and what is said of strategies that cannot be had."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from darts_tf import replicas
from darts_tf.errors import InputError
from darts_tf.training import distribution


def batches(examples, size):
    """Numbered examples in batches."""
    numbers = np.arange(examples)
    return tf.data.Dataset.from_tensor_slices((numbers, 10 * numbers)).batch(size)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_every_example_comes_once_in_order_and_parts_differ_by_one_at_most(parts):
    for examples in range(1, 4 * parts + 2):
        dealt = replicas.deal(batches(examples, 2 * parts), parts, 0, parts, may_be_empty=True)
        pieces = [x.tolist() for x, _ in dealt.as_numpy_iterator()]
        assert sum(pieces, []) == list(range(examples))
        assert len(pieces) == int(dealt.cardinality()) and len(pieces) % parts == 0
        for start in range(0, len(pieces), parts):
            sizes = [len(piece) for piece in pieces[start : start + parts]]
            assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


def test_sizes_of_forty_over_three():
    dealt = replicas.deal(batches(40, 64), 3, 0, 3)
    assert [len(x) for x, _ in dealt.as_numpy_iterator()] == [14, 13, 13]


def test_workers_get_the_parts_of_their_own_devices():
    of_workers = [replicas.deal(batches(11, 6), 4, first, 2) for first in (0, 2)]
    of_all = list(replicas.deal(batches(11, 6), 4, 0, 4).as_numpy_iterator())
    for first, dealt in zip((0, 2), of_workers, strict=True):
        expected = [of_all[batch + first + k] for batch in (0, 4) for k in (0, 1)]
        for (x, y), (wanted, _) in zip(dealt.as_numpy_iterator(), expected, strict=True):
            np.testing.assert_array_equal(x, wanted)
            np.testing.assert_array_equal(y, 10 * wanted)


def test_both_halves_of_a_pair_are_divided_by_their_own_size():
    pair = tf.data.Dataset.zip(batches(5, 5), batches(8, 8))
    sizes = [(len(t[0]), len(v[0])) for t, v in replicas.deal(pair, 3, 0, 3).as_numpy_iterator()]
    assert sizes == [(2, 3), (2, 3), (1, 2)]


def test_training_batches_with_too_few_examples_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="fewer examples than .* replicas, 3"):
        list(replicas.deal(batches(5, 3), 3, 0, 3))


def test_on_one_device_nothing_changes():
    data = batches(5, 3)
    assert replicas.distribute(tf.distribute.get_strategy(), data) is data
    rows = replicas.rows(4)
    assert [int(number) for number in rows] == [0, 4, 4]
    value = tf.constant([1.0, 2.0])
    assert rows.of(value) is value and rows.whole(value) is value and rows.share(value) is value


def test_strategies():
    assert distribution.strategy_of("auto") is tf.distribute.get_strategy()
    assert distribution.strategy_of("one_device") is tf.distribute.get_strategy()
    assert distribution.is_chief(distribution.strategy_of())
    with pytest.raises(InputError, match="Unknown strategy 'both'. Known: auto, mirrored, multi_"):
        distribution.strategy_of("both")
    with pytest.raises(InputError, match="before TensorFlow has computed anything"):
        tf.zeros([]).numpy()
        distribution.strategy_of("mirrored", logical_devices=2)


def test_batches_smaller_than_the_number_of_replicas_are_refused():
    class Three:
        num_replicas_in_sync = 3

    distribution.check_batch_size(Three(), "--batch_size", 3)
    with pytest.raises(InputError, match="smallest batch has 1 example, but each of the 3 replica"):
        distribution.check_batch_size(Three(), "--batch_size", 1)


def config(**changed):
    """A TF_CONFIG with changes."""
    whole = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    return json.dumps(whole | changed)


def test_a_right_tf_config():
    distribution.check_tf_config(config())
    distribution.check_tf_config(distribution.EXAMPLE)
    chief = {"chief": ["a:1"], "worker": ["b:2"]}
    distribution.check_tf_config(config(cluster=chief, task={"type": "chief", "index": 0}))


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "which is not set"),
        ("", "which is not set"),
        ("{", "which is not JSON"),
        ("[]", 'must have "cluster" and "task"'),
        ("{}", 'must have "cluster" and "task"'),
        (config(cluster={}), "whose cluster has"),
        (config(cluster={"worker": ["a:1"], "ps": ["b:2"]}), "Received: ..ps., .worker.."),
        (config(cluster={"worker": []}), "must be a list of host:port"),
        (config(cluster={"worker": ["a:1", "b"]}), "must be a list of host:port"),
        (config(cluster={"worker": ["a:1", "b:port"]}), "must be a list of host:port"),
        (config(cluster={"worker": "a:1"}), "must be a list of host:port"),
        (config(task={"type": "chief", "index": 0}), "must name one of the cluster"),
        (config(task={"type": "worker", "index": "1"}), "must name one of the cluster"),
        (config(task={"type": "worker", "index": 2}), "none with index 2"),
        (config(task={"type": "worker", "index": -1}), "none with index -1"),
    ],
)
def test_a_wrong_tf_config(text, words, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG") as error:
        distribution.strategy_of("multi_worker")
    message = str(error.value)
    assert re.search(words, message), message
    assert "darts_tf.bin.launch" in message and "first.host:12345" in message
