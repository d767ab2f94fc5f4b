"""The preprocessing of the networks: one scale of pixels from training to the exported model."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import darts_tf
from darts_tf.errors import InputError

SHAPE = (8, 8, 3)
GENOTYPE = darts_tf.Genotype(
    normal=[[("skip_connect", 0), ("skip_connect", 1)]],
    normal_concat=[2],
    reduce=[[("max_pool_3x3", 0), ("skip_connect", 1)]],
    reduce_concat=[2],
)
CHEAP = ("none", "skip_connect")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def pictures(count=24, seed=0):
    """Images as files hold them, of three classes that differ in brightness."""
    source, labels = np.random.default_rng(seed), np.arange(count) % 3
    images = source.integers(0, 60, (count, *SHAPE)) + 90 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def evaluation_network(preprocessing=None, **options):
    keras.utils.set_random_seed(0)
    return darts_tf.EvaluationNetwork(
        GENOTYPE, 3, 2, 1, image_shape=SHAPE, preprocessing=preprocessing, **options
    )


def supernet(preprocessing=None, **options):
    keras.utils.set_random_seed(0)
    return darts_tf.Supernet(
        3, 2, 1, 1, SHAPE, primitives=CHEAP, preprocessing=preprocessing, **options
    )


def adapted():
    layer = keras.layers.Normalization()
    layer.adapt(pictures()[0].astype(np.float32))
    return layer


def evaluation_of(network):
    model = darts_tf.ArchitectureEvaluation(network)
    model.compile(darts_tf.SGD(0.2, l2=0.0), LOSS, ["accuracy"])
    return model


def search_of(network):
    model = darts_tf.ArchitectureSearch(network, order="first")
    model.compile(darts_tf.SGD(0.2), darts_tf.Adam(), LOSS, ["accuracy"])
    return model


# ---------------------------------------------------------------------------- the layer


def test_normalization_is_the_mean_and_deviation_by_channel():
    x = pictures(600)[0]  # more than are taken at a time
    layer = darts_tf.normalization(x)
    numbers = x.astype(np.float64)
    np.testing.assert_allclose(layer.input_mean, numbers.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(layer.input_variance, numbers.var((0, 1, 2)), rtol=1e-12)
    assert not layer.variables
    got = layer(x).numpy().astype(np.float64)
    np.testing.assert_allclose(got.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(got.std((0, 1, 2)), 1, atol=1e-5)


def test_normalization_reads_what_keras_makes_of_a_folder(tmp_path):
    x, y = pictures(7)
    for number, image in enumerate(x):
        (tmp_path / str(y[number])).mkdir(exist_ok=True)
        keras.utils.save_img(tmp_path / str(y[number]) / f"{number}.png", image, scale=False)
    folder = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=SHAPE[:2], batch_size=2, shuffle=False, verbose=False
    )
    assert folder.element_spec[0].dtype == tf.float32
    got, expected = darts_tf.normalization(folder), darts_tf.normalization(x)
    np.testing.assert_allclose(got.input_mean, expected.input_mean, rtol=1e-6)
    np.testing.assert_allclose(got.input_variance, expected.input_variance, rtol=1e-6)


def test_a_constant_channel_is_divided_by_a_grey_level():
    x = pictures()[0]
    x[0, 0, 0, 0], x[..., 2] = 255, 7
    for scale, grey_level in ((1.0, 1.0), (1 / 255, 1 / 255)):
        layer = darts_tf.normalization(x * np.float32(scale))
        assert layer.input_variance[2] == pytest.approx(grey_level**2)
    assert np.isfinite(darts_tf.normalization(np.zeros((2, *SHAPE)))(x)).all()


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((3, 8)), r"shape \(N, height, width, channels\).* shape \(3, 8\)"),
        (np.float32(1), r"shape \(N, height, width, channels\)"),
        (np.array([["a"]]), "type <U1"),
        (np.zeros((0, 8, 8, 3)), "at least one image; received none"),
        (np.full((2, 8, 8, 3), np.nan), "hold NaN or infinity"),
        (tf.data.Dataset.from_tensors(np.zeros((2, *SHAPE))).repeat(), "is endless"),
    ],
)
def test_what_has_no_mean_is_refused(images, words):
    with pytest.raises(InputError, match=words):
        darts_tf.normalization(images)


# ---------------------------------------------------------------------------- in the networks


@pytest.mark.parametrize("make", [supernet, evaluation_network])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_network_normalises_as_numpy_does(make, policy):
    x = pictures()[0]
    mean, deviation = x.mean((0, 1, 2)), x.std((0, 1, 2))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layer = darts_tf.normalization(x)
        network, plain = make(layer), make()
        seen = network.preprocessed(x)
        given = x if policy == "mixed_bfloat16" else x.astype(np.float64)
        logits = network.forward(given) if policy == "float32" else None
    finally:
        keras.config.set_dtype_policy(before)
    assert seen.dtype == tf.float32  # at half precision the first digits of pixels would be lost
    expected = ((x - mean) / deviation).astype(np.float32)
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    if logits is not None:
        of_plain = plain.forward(expected)
        last = (lambda y: y.logits) if make is evaluation_network else (lambda y: y[-1])
        np.testing.assert_allclose(last(logits), last(of_plain), atol=1e-5)


@pytest.mark.parametrize(
    "layer, mean, deviation",
    [
        (lambda: keras.layers.Rescaling(1 / 127.5, -1), 127.5, 127.5),
        (adapted, pictures()[0].mean((0, 1, 2)), pictures()[0].std((0, 1, 2))),
        (
            lambda: keras.Sequential(
                [
                    keras.layers.Rescaling(1 / 255),
                    keras.layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.04, 0.09, 1]),
                ]
            ),
            np.array([127.5, 102, 76.5]),
            np.array([51, 76.5, 255]),
        ),
    ],
    ids=["rescaling", "adapted", "sequential"],
)
def test_any_layer_of_keras_without_weights_goes_through_get_config_and_files(
    layer, mean, deviation, tmp_path
):
    x = pictures()[0]
    expected = (x - mean) / deviation
    network = evaluation_network(layer())
    network.save(tmp_path / "model.keras")
    for other in (
        network,
        darts_tf.EvaluationNetwork.from_config(network.get_config()),
        darts_tf.Supernet.from_config(supernet(layer()).get_config()),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        np.testing.assert_allclose(other.preprocessed(x), expected, atol=2e-5)
        assert not other.preprocessing.variables


def test_the_layer_that_was_given_stays_as_it_was():
    layer = keras.layers.Rescaling(1 / 255, dtype="mixed_bfloat16")
    network = supernet(layer)
    assert layer.compute_dtype == "bfloat16" and not layer.built
    assert network.preprocessing is not layer
    assert network.preprocessing.compute_dtype == "float32"


@pytest.mark.parametrize(
    "layer, words",
    [
        (lambda: "rescaling", "preprocessing must be a Keras layer.* Received: 'rescaling'"),
        (lambda: np.float32, "preprocessing must be a Keras layer"),
        (keras.layers.Normalization, "without mean and variance: adapt it"),
        (keras.layers.BatchNormalization, "has variables of its own"),
        (keras.layers.RandomBrightness, "has variables of its own|cannot be saved"),
        (lambda: keras.layers.Lambda(lambda x: x / 255), "cannot be saved"),
        (lambda: keras.layers.Resizing(4, 4), r"must make images of shape \(8, 8, 3\)"),
        (lambda: darts_tf.normalization(np.ones((1, 8, 8, 2))), r"shape \(8, 8, 3\)"),
        (
            lambda: keras.Sequential([keras.layers.Rescaling(1 / 255, dtype="float16")]),
            'It makes .* float16; give its parts dtype="float32"',
        ),
    ],
)
def test_what_is_no_preprocessing_is_refused(layer, words):
    if layer is keras.layers.RandomBrightness:
        layer = lambda: keras.layers.RandomBrightness(0.1)  # noqa: E731
    with pytest.raises(InputError, match=words) as raised:
        supernet(layer())
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------- scales


@pytest.mark.parametrize("make", [supernet, evaluation_network])
def test_whole_numbers_of_no_known_scale_are_refused(make):
    x = pictures()[0]
    for dtype in (np.uint8, np.uint16, np.int32, bool):
        with pytest.raises(InputError, match="and the network has no preprocessing: their scale"):
            make().forward(x.astype(dtype))
    of_floats = make(darts_tf.normalization(x / np.float32(255)))
    with pytest.raises(InputError, match="type uint8, and the network has another scale"):
        of_floats.forward(x)
    assert not of_floats.takes_bytes and make(keras.layers.Rescaling(1 / 255)).takes_bytes


BYTES = pictures()[0].astype(np.float32)


@pytest.mark.parametrize(
    "preprocessing, images, words",
    [
        (None, BYTES, "pixels from 0 to 239, up to 239. They are not normalised. Make the network"),
        (darts_tf.normalization, BYTES / 255, "after the network's preprocessing. They have anoth"),
        (darts_tf.normalization, 257 * BYTES.astype(np.uint16), "up to .* They have another scale"),
        (None, BYTES / 255, None),
        (darts_tf.normalization, BYTES, None),
        (darts_tf.normalization, BYTES.astype(np.uint16), None),
    ],
)
def test_images_on_another_scale_are_warned_of(preprocessing, images, words):
    network = evaluation_network(preprocessing and preprocessing(BYTES))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network.check_scale(images)
    said = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(said) == (words is not None)
    assert not words or re.search(words, said[0])


def test_training_and_evaluation_look_at_their_images():
    model, labels = evaluation_of(evaluation_network()), pictures()[1]
    batches = tf.data.Dataset.from_tensor_slices((BYTES, labels)).batch(12)
    right = BYTES / 255
    for use in (
        lambda: model.fit(batches, epochs=1, verbose=0),
        lambda: model.fit(right, labels, validation_data=(BYTES, labels), verbose=0),
        lambda: model.evaluate(batches, verbose=0),
        lambda: model.evaluate(BYTES, labels, verbose=0),
    ):
        with pytest.warns(UserWarning, match="They are not normalised"):
            use()


def test_a_search_warns_too_and_reads_a_generator_once():
    x, y = pictures()
    given = iter([(x.astype(np.float32), y)] * 2)
    batches = tf.data.Dataset.from_generator(
        lambda: ((pair, pair) for pair in given),
        output_signature=((tf.TensorSpec((24, *SHAPE)), tf.TensorSpec(24, tf.int32)),) * 2,
    )
    with pytest.warns(UserWarning, match="They are not normalised"):
        history = search_of(supernet()).fit(batches, epochs=1, verbose=0)
    assert not list(given) and len(history.history["loss"]) == 1


# ---------------------------------------------------------------------------- the whole way


def test_the_accuracy_in_keras_is_that_of_every_exported_form(tmp_path):
    """Trained as Keras reads folders, 0..255; nothing is scaled by hand anywhere."""
    x, y = pictures(48)
    x_test, y_test = pictures(24, seed=1)
    images, test = x.astype(np.float32), x_test.astype(np.float32)
    network = evaluation_network(darts_tf.normalization(images))
    model = evaluation_of(network)
    train = tf.data.Dataset.from_tensor_slices((images, y)).batch(24)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The images have")
        model.fit(train, epochs=40, verbose=0)
        accuracy = model.evaluate(test, y_test, verbose=0, return_dict=True)["accuracy"]
        bytes_too = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == bytes_too > 0.9  # on another scale it is that of chance, a third

    network.save(tmp_path / "model.keras")
    darts_tf.export_saved_model(network, tmp_path / "saved_model")
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "saved_model"), signature_keys=["serving_default"]
    )
    lite = tf.lite.Interpreter(model_content=converter.convert())
    lite = lite.get_signature_runner("serving_default")
    logits = {
        "keras": keras.models.load_model(tmp_path / "model.keras")(test),
        "floats": served.serve(test)["logits"],
        "bytes": served.serve(x_test)["logits"],
        "signature": served.signatures["serving_default"](images=tf.constant(test))["logits"],
        "serve_uint8": served.signatures["serve_uint8"](images=tf.constant(x_test))["logits"],
        "tflite": lite(images=test)["logits"],
    }
    expected = network(test, training=False)
    for name, found in logits.items():
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, err_msg=name)
        assert np.mean(np.argmax(found, -1) == y_test) == pytest.approx(accuracy), name
