"""A search is traced in its first epoch, and never again: a trace takes longer than many steps."""

import keras
import numpy as np
import pytest

import darts_tf
from darts_tf.search.architecture_search import ArchitectureSearch
from darts_tf.space.mixed import MixedFunction


class CountedSearch(ArchitectureSearch):
    """Counts how often Python runs its steps, which it does to trace them."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.counts = {"train": 0, "test": 0}

    def train_step(self, data):
        self.counts["train"] += 1
        return super().train_step(data)

    def test_step(self, data):
        self.counts["test"] += 1
        return super().test_step(data)


@pytest.mark.parametrize("order", ["first", "second_exact"])
def test_later_epochs_and_evaluations_trace_nothing(order, monkeypatch):
    blocks = []
    compute = MixedFunction.__call__

    def counted(self, *arguments):
        blocks.append(self)
        return compute(self, *arguments)

    monkeypatch.setattr(MixedFunction, "__call__", counted)
    keras.utils.set_random_seed(0)
    supernet = darts_tf.Supernet(
        num_classes=2,
        init_channels=3,  # a width of its own: blocks that other tests traced would not count
        num_cells=1,
        num_nodes=1,
        image_shape=(8, 8, 1),
        primitives=("none", "max_pool_3x3", "sep_conv_3x3"),
    )
    search = CountedSearch(supernet, order=order)
    search.compile(
        optimizer=darts_tf.SGD(0.1),
        arch_optimizer=darts_tf.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 8, 8, 1)).astype(np.float32), random.integers(0, 2, 12)
    seen = []

    def look(*_):
        seen.append((dict(search.counts), len(blocks)))

    # Batches of 5, 5 and 2: the smaller one belongs to the first epoch too.
    search.fit(
        darts_tf.pair((x, y), (x, y), batch_size=5),
        validation_data=(x, y),
        validation_batch_size=5,
        epochs=3,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)],
    )
    assert seen[0][0]["train"] > 0 and seen[0][0]["test"] > 0 and seen[0][1] > 0
    assert seen == seen[:1] * 3
    for _ in range(2):
        search.evaluate(x, y, batch_size=5, verbose=0)
        look()
    assert seen[4] == seen[3]
