"""ArchitectureSearch: what a step does and in which order, fit, supernets of users, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError
from darts_tf.search import bilevel
from darts_tf.search.architecture_search import ArchitectureSearch

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class DenseSupernet(keras.Model):
    """A supernet as a user would write it: tanh or softplus of a Dense layer, mixed by alpha."""

    def __init__(self, normalise=True):
        super().__init__()
        self.inner = keras.layers.Dense(3)
        self.norm = keras.layers.BatchNormalization() if normalise else None
        self.outer = keras.layers.Dense(2)
        self.alphas = self.add_weight(
            name="alphas_mix", shape=(1, 2), initializer="ones", trainable=False
        )
        self.traces = 0
        self(np.zeros((1, 4)))
        self.traces = 0

    @property
    def architecture_parameters(self):
        return [self.alphas]

    @property
    def network_parameters(self):
        return self.trainable_variables

    def derive(self):
        return ("tanh", "softplus")[int(np.argmax(self.alphas.numpy()))]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 2)

    def call(self, x, training=False):
        self.traces += 1
        h = self.inner(x)
        if self.norm is not None:
            h = self.norm(h, training=training)
        mix = tf.nn.softmax(tf.convert_to_tensor(self.alphas))[0]
        return self.outer(mix[0] * tf.tanh(h) + mix[1] * tf.nn.softplus(h))


def examples(count, seed=0, dtype="float32"):
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 4)).astype(dtype)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int32)


def dense_search(order="first", normalise=True, optimizer=None, arch_optimizer=None, **options):
    keras.utils.set_random_seed(0)
    search = ArchitectureSearch(DenseSupernet(normalise), order=order)
    search.compile(
        optimizer=optimizer or darts_tf.SGD(0.1),
        arch_optimizer=arch_optimizer or darts_tf.Adam(0.01),
        loss=CROSS_ENTROPY,
        metrics=["accuracy"],
        **options,
    )
    return search


def flat(tensors):
    return np.concatenate([np.ravel(np.asarray(t)) for t in tensors])


def weights_of(search):
    return flat(v.value for v in search.supernet.network_parameters)


def gradient(loss, w, alphas):
    """Loss's gradients with respect to w and to alpha, as arrays."""
    w, alphas = tf.constant(w), tf.constant(alphas)
    with tf.GradientTape() as tape:
        tape.watch([w, alphas])
        value = loss(w, [alphas])
    return [g.numpy() for g in tape.gradient(value, [w, alphas])]


# ---------------------------------------------------------------------------------- whole steps


@pytest.mark.parametrize("order", ["first", "second_exact"])
def test_alpha_steps_first_and_the_weights_follow_at_the_new_alpha(order, precision):
    rate, mu, l2, clip = 0.1, 0.9, 0.01, 0.05  # the clip is in force
    alpha_rate, beta_1, beta_2, alpha_l2 = 0.02, 0.5, 0.999, 1e-3
    search = dense_search(
        order,
        optimizer=darts_tf.SGD(rate, mu, l2, clip),
        arch_optimizer=darts_tf.Adam(alpha_rate, beta_1, beta_2, 1e-8, alpha_l2),
    )
    w, alpha = weights_of(search), search.supernet.alphas.numpy()
    b, m, v = np.zeros_like(w), np.zeros_like(alpha), np.zeros_like(alpha)
    for t in (1, 2, 3):
        train, validation = (examples(6, seed, "float64") for seed in (t, 10 + t))
        train_loss, validation_loss = (
            search.loss_function((*(tf.constant(part) for part in batch), None))
            for batch in (train, validation)
        )

        def objective(alpha, w=w, b=b, train_loss=train_loss, validation_loss=validation_loss):
            if order == "second_exact":
                g, _ = gradient(train_loss, w, alpha)
                w = w - rate * (mu * b + g + l2 * w)
            return float(validation_loss(tf.constant(w), [tf.constant(alpha)]))

        g = np.zeros_like(alpha)
        for index in np.ndindex(alpha.shape):
            d = np.zeros_like(alpha)
            d[index] = 1e-5
            g[index] = (objective(alpha + d) - objective(alpha - d)) / 2e-5
        g += alpha_l2 * alpha
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        new = alpha - alpha_rate * (m / (1 - beta_1**t)) / (np.sqrt(v / (1 - beta_2**t)) + 1e-8)

        g_old, _ = gradient(train_loss, w, alpha)
        g, _ = gradient(train_loss, w, new)
        norm = np.sqrt(np.sum(g**2))
        assert norm > 2 * clip
        b = mu * b + g * clip / (norm + 1e-6) + l2 * w
        w = w - rate * b
        alpha = new
        assert np.abs(g - g_old).max() > 1e-5  # which alpha it was would show

        search.train_step((train, validation))
        np.testing.assert_allclose(search.supernet.alphas.numpy(), alpha, rtol=0, atol=1e-8)
        np.testing.assert_allclose(weights_of(search), w, rtol=0, atol=1e-8)


@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_only_the_weight_step_moves_running_statistics(order, precision):
    search = dense_search(order)
    norm, inner = search.supernet.norm, search.supernet.inner
    train, validation = examples(6, 1, "float64"), examples(8, 2, "float64")
    h = train[0] @ inner.kernel.numpy() + inner.bias.numpy()  # at the weights before the step
    search.train_step((train, validation))
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.01 * h.mean(0), rtol=0, atol=1e-12)
    expected = 0.99 + 0.01 * h.var(0)
    np.testing.assert_allclose(norm.moving_variance.numpy(), expected, rtol=0, atol=1e-12)


def test_architecture_passes_leave_everything_as_it_is(precision):
    search = dense_search()
    before = [v.numpy() for v in search.supernet.variables]
    x, y = examples(6, 1, "float64")
    loss = search.loss_function((tf.constant(x), tf.constant(y), None))
    value = loss(tf.constant(weights_of(search) * 2), [tf.constant([[0.5, -0.5]], tf.float64)])
    assert np.isfinite(float(value))
    for variable, old in zip(search.supernet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_loss_function_is_the_mean_at_the_given_weights_and_alphas(precision):
    search = dense_search(normalise=False)
    x, y = examples(5, 1, "float64")
    w, alphas = weights_of(search) * 1.5, np.array([[0.3, -0.4]])
    kernels = {"inner": (4, 3), "inner bias": (3,), "outer": (3, 2), "outer bias": (2,)}
    ends = np.cumsum([np.prod(shape) for shape in kernels.values()])[:-1]
    parts = zip(np.split(w, ends), kernels.values(), strict=True)
    a, a_bias, c, c_bias = (piece.reshape(shape) for piece, shape in parts)
    h = x @ a + a_bias
    mix = np.exp(alphas[0]) / np.exp(alphas[0]).sum()
    logits = (mix[0] * np.tanh(h) + mix[1] * np.log1p(np.exp(h))) @ c + c_bias
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), y]

    given = tf.constant(w), [tf.constant(alphas)]
    plain = search.loss_function((tf.constant(x), tf.constant(y), None))(*given)
    np.testing.assert_allclose(plain, losses.mean(), rtol=1e-12)
    weight = np.array([1.0, 0.0, 2.0, 0.5, 0.0])
    weighted = search.loss_function((tf.constant(x), tf.constant(y), tf.constant(weight)))(*given)
    np.testing.assert_allclose(weighted, np.mean(losses * weight), rtol=1e-12)


def test_examples_of_weight_zero_do_not_count_in_a_step(precision):
    (x, y), (x_val, y_val) = examples(6, 1, "float64"), examples(6, 2, "float64")
    weight = np.array([1.5, 1.5, 1.5, 1.5, 0, 0])  # their sum is the number of examples
    whole, part = (dense_search("second_exact", normalise=False) for _ in range(2))
    whole.train_step(((x, y, weight), (x_val, y_val, weight)))
    part.train_step(((x[:4], y[:4]), (x_val[:4], y_val[:4])))
    np.testing.assert_allclose(weights_of(whole), weights_of(part), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        whole.supernet.alphas.numpy(), part.supernet.alphas.numpy(), rtol=0, atol=1e-12
    )


# ------------------------------------------------------------------------------------------ fit


@pytest.fixture(scope="module")
def fitted():
    """A tiny search on arrays, with its history."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 8, 8, 1)).astype(np.float32)
    y = random.integers(0, 3, 40)
    train, validation = (x[:22], y[:22]), (x[22:], y[22:])
    supernet = darts_tf.Supernet(
        3, 2, 2, 1, (8, 8, 1), primitives=("none", "max_pool_3x3", "dil_conv_3x3")
    )
    search = ArchitectureSearch(supernet)
    search.compile(darts_tf.SGD(), darts_tf.Adam(), CROSS_ENTROPY, metrics=["accuracy"])
    before = [v.numpy() for v in (*supernet.architecture_parameters, *supernet.network_parameters)]
    pairs = darts_tf.pair(train, validation, batch_size=8)
    history = search.fit(pairs, validation_data=validation, epochs=2, verbose=0).history
    return search, history, before, validation


def test_fit_reports_losses_and_accuracy_of_both_halves(fitted):
    _, history, _, _ = fitted
    assert set(history) == {"loss", "arch_loss", "accuracy", "val_loss", "val_accuracy"}
    for name, values in history.items():
        assert len(values) == 2 and np.isfinite(values).all(), name
    # Three classes at random labels: the cross-entropy is near ln 3, the accuracy a share.
    assert all(0.3 < v < 4 for name in ("loss", "arch_loss", "val_loss") for v in history[name])
    assert all(0 <= v <= 1 for name in ("accuracy", "val_accuracy") for v in history[name])


def test_fit_moves_alphas_and_weights(fitted):
    search, _, before, _ = fitted
    supernet = search.supernet
    now = (*supernet.architecture_parameters, *supernet.network_parameters)
    for variable, old in zip(now, before, strict=True):
        assert not np.array_equal(variable.numpy(), old), variable.path
    # Each of the 2 x 3 steps of Adam moves an alpha by at most about its learning rate.
    moved = np.abs(supernet.alphas_normal.numpy() - before[0])
    assert 1e-6 < moved.max() < 6 * 2 * 3e-4


def test_optimizers_see_their_own_variables_only(fitted):
    search, _, _, _ = fitted
    count = len(search.supernet.network_parameters)
    assert len(search.optimizer.variables) == 2 + count  # iterations, learning rate, momentum
    assert len(search.arch_optimizer.variables) == 2 + 2 * 2
    assert int(search.optimizer.iterations) == int(search.arch_optimizer.iterations) == 6


def test_evaluate_is_the_loss_with_running_statistics(fitted):
    search, history, _, (x, y) = fitted
    results = search.evaluate(x, y, verbose=0, return_dict=True)
    logits = search.supernet(x, training=False).numpy().astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    assert set(results) == {"loss", "accuracy"}
    np.testing.assert_allclose(results["loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(results["accuracy"], np.mean(logits.argmax(1) == y), rtol=1e-6)
    np.testing.assert_allclose(results["loss"], history["val_loss"][-1], rtol=1e-5)


def test_derive_gives_a_genotype(fitted):
    search, _, _, _ = fitted
    genotype = search.derive()
    assert isinstance(genotype, darts_tf.Genotype)
    assert genotype == search.supernet.derive()


def test_configuration_makes_the_same_search(fitted):
    search, _, _, (x, _) = fitted
    other = ArchitectureSearch.from_config(search.get_config())
    assert other.order == "second_exact"
    other.supernet.set_weights(search.supernet.get_weights())
    np.testing.assert_array_equal(other(x[:2]), search(x[:2]))


@pytest.mark.parametrize("order", bilevel.ORDERS)
def test_a_supernet_of_a_user_is_searched_and_traced_once(order):
    search = dense_search(order, arch_optimizer="adam", optimizer="sgd")
    (x, y), validation = examples(40, 1), examples(20, 2)
    traces = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: traces.append(search.supernet.traces)
    )
    # Batches of 16, 16 and 8: the smaller one must not be traced anew either.
    history = search.fit(
        darts_tf.pair((x, y), validation, batch_size=16),
        validation_data=validation,
        epochs=3,
        verbose=0,
        callbacks=[count],
    ).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert traces[0] > 0 and traces == traces[:1] * 3
    assert search.derive() in ("tanh", "softplus")
    assert int(search.optimizer.iterations) == 9


def test_fit_takes_a_data_set_of_pairs_with_weights():
    (x, y), (x_val, y_val) = examples(16, 1), examples(16, 2)
    weight = np.ones(16, np.float32)
    train = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(8)
    validation = tf.data.Dataset.from_tensor_slices((x_val, y_val)).batch(8)
    search = dense_search()
    history = search.fit(tf.data.Dataset.zip(train, validation), epochs=1, verbose=0).history
    assert set(history) == {"loss", "arch_loss", "accuracy"}
    assert int(search.optimizer.iterations) == 2


def test_a_run_that_goes_on_reads_the_batches_that_it_would_have_read():
    pairs = darts_tf.pair(examples(24, 1), examples(16, 2), batch_size=8)
    whole, parts = dense_search(), dense_search()
    whole.fit(pairs, epochs=3, verbose=0)
    parts.fit(pairs, epochs=1, verbose=0)
    parts.fit(pairs, epochs=3, initial_epoch=1, verbose=0)
    np.testing.assert_array_equal(weights_of(parts), weights_of(whole))
    np.testing.assert_array_equal(parts.supernet.alphas.numpy(), whole.supernet.alphas.numpy())


def test_xla_is_not_chosen_by_itself(monkeypatch):
    # As Keras does on a machine with a GPU; XLA has no kernel for the gradient of max pooling's.
    monkeypatch.setattr(ArchitectureSearch, "_resolve_auto_jit_compile", lambda self: True)
    assert dense_search().jit_compile is False
    assert dense_search(jit_compile=True).jit_compile is True


# --------------------------------------------------------------------------------------- errors


def test_unknown_order_lists_the_known():
    with pytest.raises(
        InputError, match="Unknown order 'third'. Known: first, second_exact, second_fd"
    ):
        ArchitectureSearch(DenseSupernet(), order="third")


def test_a_model_that_is_no_supernet_is_told_what_it_lacks():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(
        InputError,
        match=r"Received: Sequential without architecture_parameters, network_parameters, derive\.",
    ):
        ArchitectureSearch(model)


def test_what_is_no_model_is_refused():
    class Lookalike:
        architecture_parameters = network_parameters = ()
        derive = None

    with pytest.raises(
        InputError, match=r"supernet must be a keras.Model .* Received: Lookalike\."
    ):
        ArchitectureSearch(Lookalike())


def test_a_supernet_must_be_built():
    class Unbuilt(DenseSupernet):
        alphas = None

        def __init__(self):
            keras.Model.__init__(self)

    with pytest.raises(
        InputError, match="must be built before the search: call it once on a batch"
    ):
        ArchitectureSearch(Unbuilt())


def test_trainable_alphas_are_refused():
    supernet = DenseSupernet()
    supernet.alphas.trainable = True
    with pytest.raises(InputError, match="must be variables with trainable=False"):
        ArchitectureSearch(supernet)


@pytest.mark.parametrize("data", [examples(4)[0], None, examples(4)])
def test_fit_refuses_what_is_no_pairing(data):
    with pytest.raises(InputError, match=r"fit\(\) takes darts_tf.pair\(train, validation\).*Rece"):
        dense_search().fit(data)


@pytest.mark.parametrize(
    "dataset",
    [
        tf.data.Dataset.from_tensor_slices(examples(4)).batch(2),
        tf.data.Dataset.from_tensor_slices(examples(4)[0]).batch(2),
        tf.data.Dataset.from_tensor_slices((examples(4), examples(4), examples(4))).batch(2),
    ],
    ids=["single batches", "inputs alone", "three"],
)
def test_fit_refuses_a_data_set_that_is_no_pair(dataset):
    with pytest.raises(InputError, match=r"needs a pair of batches \(\(x, y\), \(x_val, y_val\)\)"):
        dense_search().fit(dataset)
