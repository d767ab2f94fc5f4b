"""The recurrent cells: against NumPy, in keras.layers.RNN, and what fused functions keep."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.genotype import Genotype, RecurrentGenotype
from darts_tf.space.fused import fused
from darts_tf.space.recurrent import RecurrentDerivedCell, RecurrentSearchCell
from darts_tf.space.recurrent_functions import over_time

GENOTYPE = RecurrentGenotype(
    [("relu", 0), ("tanh", 1), ("sigmoid", 1), ("identity", 2), ("relu", 4)], [2, 3, 5]
)
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "identity": lambda x: x,
}


def numpy_step(cell, x, h):
    """One step of the cell's formulas, without masks."""
    n = cell.width

    def highway(pre, s, f):
        c, candidate = pre[:, :n], pre[:, n:]
        return s + ACTIVATIONS["sigmoid"](c) * (ACTIVATIONS[f](candidate) - s)

    states = [highway(np.concatenate([x, h], 1) @ cell.W0.numpy(), h, "tanh")]
    for W, (activation, predecessor) in zip(cell.W, cell.genotype.recurrent, strict=True):
        s = states[predecessor]
        states.append(highway(s @ W.numpy(), s, activation))
    return np.mean([states[node] for node in cell.genotype.concat], axis=0)


def numpy_run(cell, x, h, mask=None):
    """(batch, time, width) of every step; a masked step keeps state and output."""
    outputs = []
    for t in range(x.shape[1]):
        new = numpy_step(cell, x[:, t], h)
        h = new if mask is None else np.where(mask[:, t, None], new, h)
        outputs.append(h)
    return np.stack(outputs, 1)


@pytest.fixture
def cell(precision):
    keras.utils.set_random_seed(1)
    cell = RecurrentDerivedCell(GENOTYPE, 4)
    cell.build((None, 3))
    for weight in (cell.W0, *cell.W):
        weight.assign(np.random.default_rng(weight.shape[0]).normal(size=weight.shape))
    return cell


def inputs(batch=2, time=5, width=3):
    return np.random.default_rng(0).normal(size=(batch, time, width))


def test_the_cell_in_a_keras_rnn_agrees_with_numpy(cell):
    x = inputs()
    rnn = keras.layers.RNN(cell, return_sequences=True, return_state=True)
    outputs, state = rnn(x)
    expected = numpy_run(cell, x, np.zeros((2, 4)))
    np.testing.assert_allclose(outputs, expected, atol=1e-12)
    np.testing.assert_allclose(state, expected[:, -1], atol=1e-12)
    start = np.random.default_rng(2).normal(size=(2, 4))
    outputs, _ = rnn(x, initial_state=[tf.constant(start)])
    np.testing.assert_allclose(outputs, numpy_run(cell, x, start), atol=1e-12)
    assert len(rnn.trainable_weights) == 1 + len(GENOTYPE.recurrent)


def test_the_cell_honours_a_mask(cell):
    x = inputs()
    mask = np.array([[True] * 5, [True, True, False, True, False]])
    outputs, state = keras.layers.RNN(cell, return_sequences=True, return_state=True)(x, mask=mask)
    expected = numpy_run(cell, x, np.zeros((2, 4)), mask)
    np.testing.assert_allclose(state, expected[:, -1], atol=1e-12)
    np.testing.assert_allclose(outputs, expected, atol=1e-12)


def test_a_stateful_layer_goes_on_where_it_was(cell):
    x = inputs()
    stateful = keras.layers.RNN(cell, stateful=True, return_sequences=True)
    parts = [stateful(x[:, :3]), stateful(x[:, 3:])]
    expected = numpy_run(cell, x, np.zeros((2, 4)))
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=1e-12)
    stateful.reset_state()
    np.testing.assert_allclose(stateful(x[:, :3]), expected[:, :3], atol=1e-12)


def test_a_model_with_the_cell_trains_and_comes_back_from_its_file(tmp_path):
    keras.utils.set_random_seed(0)
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=True)(words)
    x = keras.layers.RNN(RecurrentDerivedCell(GENOTYPE, 4))(x)
    model = keras.Model(words, keras.layers.Dense(2)(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    given = np.random.default_rng(0).integers(0, 9, (8, 6))
    before = model.get_weights()
    model.fit(given, given[:, 0] % 2, verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(given), model(given), atol=1e-6)
    assert loaded.layers[-2].cell.genotype == GENOTYPE


def test_unrolled_it_agrees_with_numpy_with_masks_and_lengths(cell):
    x, start = inputs(), np.random.default_rng(2).normal(size=(2, 4))
    times = tf.constant(x.transpose(1, 0, 2))
    unrolled = tf.function(lambda: cell.unroll(times, tf.constant(start)))()
    expected = numpy_run(cell, x, start)
    np.testing.assert_allclose(unrolled.outputs, expected.transpose(1, 0, 2), atol=1e-12)
    lengths = np.array([2, 5])
    unrolled = cell.unroll(times, tf.constant(start), lengths=tf.constant(lengths))
    masked = numpy_run(cell, x, start, np.arange(5) < lengths[:, None])
    np.testing.assert_allclose(unrolled.last, masked[:, -1], atol=1e-12)


@pytest.mark.parametrize("kind", ["derived", "search"])
def test_the_time_loop_is_traced_once_whatever_its_length(kind, monkeypatch):
    if kind == "derived":
        cell = RecurrentDerivedCell(GENOTYPE, 4)
        cell.build((None, 4))
        run = cell.unroll
    else:
        cell = RecurrentSearchCell(4, 2, jit_compile=False)
        weights = tf.fill([3, 5], 0.2)

        def run(x, h):
            return cell(x, h, weights, training=True)

    steps = []
    monkeypatch.setattr(
        "darts_tf.space.recurrent.over_time",
        lambda step, *rest: over_time(lambda *given: steps.append(1) or step(*given), *rest),
    )

    def nodes(time):
        function = tf.function(lambda x, h: run(x, h).last)
        specs = [tf.TensorSpec((time, 2, 4)), tf.TensorSpec((2, 4))]
        graph = function.get_concrete_function(*specs).graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    short = nodes(3)
    assert len(steps) == 1
    assert nodes(35) == short
    assert len(steps) == 2


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("place", ["graph", "loop"])
def test_a_fused_function_has_its_derivatives_up_to_the_second(jit_compile, place, precision):
    def function(x, y):
        return tf.tanh(x) * y + x * x, tf.reduce_sum(tf.sigmoid(x * y), 0)

    x, y = (np.random.default_rng(k).normal(size=(3, 2)) for k in (0, 1))

    def derivatives(called):
        @tf.function(autograph=False)
        def run(x, y):
            def value(x, y):
                if place == "graph":
                    one, other = called(x, y)
                    return tf.reduce_sum(one * one) + tf.reduce_sum(other**3)
                _, x = tf.while_loop(
                    lambda t, x: t < 3,
                    lambda t, x: (t + 1, called(x, y)[0] + called(x, y)[1]),
                    (0, x),
                    maximum_iterations=3,
                )
                return tf.reduce_sum(x * x)

            with tf.GradientTape() as outer:
                outer.watch([x, y])
                with tf.GradientTape() as inner:
                    inner.watch([x, y])
                    loss = value(x, y)
                first = inner.gradient(loss, [x, y])
                total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in first])
            return first, outer.gradient(total, [x, y])

        return tf.nest.flatten(run(tf.constant(x), tf.constant(y)))

    actual = derivatives(fused(function, separate=(1,), jit_compile=jit_compile))
    for one, other in zip(actual, derivatives(function), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="width must be a whole number of 1 or more. Received: 0"):
        RecurrentDerivedCell(GENOTYPE, 0)
    cells = Genotype([[("skip_connect", 0)]], [2], [[("skip_connect", 0)]], [2])
    with pytest.raises(InputError, match="must be a RecurrentGenotype. Received: Genotype"):
        RecurrentDerivedCell(cells, 3)
    with pytest.raises(InputError, match="num_nodes must be .* Received: 0"):
        RecurrentSearchCell(3, 0)
    with pytest.raises(InputError, match="Unknown recurrent primitive 'elu'. Known: identity, no"):
        RecurrentSearchCell(3, 1, ("none", "elu"))


def test_a_search_cell_comes_back_from_its_config():
    cell = RecurrentSearchCell(3, 2, ("none", "relu"), jit_compile=False)
    again = RecurrentSearchCell.from_config(cell.get_config())
    assert again.get_config() == cell.get_config()
    assert [w.shape for w in again.weights] == [w.shape for w in cell.weights]
