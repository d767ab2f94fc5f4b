"""The ImageNet transforms and streams, on fabricated images of different sizes."""

import colorsys
import itertools

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.data import StreamedImages, imagenet
from darts_tf.data.augmentation import example_seeds
from darts_tf.errors import InputError
from tests.data_images_test import store


def examples(count=10, encoded=False):
    """Noise of different sizes, labelled 0, 1, 2, ..."""

    def generate():
        rng = np.random.default_rng(0)
        for label in range(count):
            height, width = rng.integers(20, 60, 2)
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            image = tf.io.encode_jpeg(image).numpy() if encoded else image
            yield {"image": image, "label": label}

    image_spec = (
        tf.TensorSpec((), tf.string) if encoded else tf.TensorSpec((None, None, 3), tf.uint8)
    )
    spec = {"image": image_spec, "label": tf.TensorSpec((), tf.int64)}
    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def take(dataset, count):
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def boxes(height, width, count):
    seeds = example_seeds(0, "crop", np.arange(count))
    box = tf.function(lambda s: tf.stack(imagenet.random_box(height, width, s)))
    return np.array([box(seed) for seed in seeds])


def test_random_boxes_have_the_published_areas_and_aspect_ratios():
    top, left, height, width = boxes(300, 400, 600).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 300).all() and (left + width <= 400).all()
    share = height * width / (300 * 400)
    assert share.min() > 0.078 and share.max() <= 1.0
    # Large boxes fit less often, which pulls the mean below that of the tries, 0.54.
    assert 0.44 < share.mean() < 0.54
    aspect = np.log(width / height)
    assert np.abs(aspect).max() < np.log(4 / 3) + 0.02
    assert np.abs(aspect.mean()) < 0.06
    assert left.min() == 0 and len(set(top)) > 100


@pytest.mark.parametrize(
    ("size", "box"), [((10, 400), (0, 194, 10, 13)), ((400, 10), (194, 0, 13, 10))]
)
def test_a_box_that_never_fits_becomes_the_largest_central_one(size, box):
    found = boxes(*size, 40)
    # Small boxes fit now and then: 8 % of the area is 320 pixels, more than 10 x 13.
    np.testing.assert_array_equal(np.unique(found, axis=0)[:, 2:], [box[2:]])
    assert np.abs(found[:, :2] - box[:2]).max() <= 1


def numpy_jitter(image, draws, order):
    """The four changes of torchvision, pixel by pixel."""
    factors = 1 + 0.4 * draws[:3]

    def grey(x):
        return (x @ [0.2989, 0.587, 0.114])[..., None]

    def blend(x, other, factor):
        return np.clip(factor * x + (1 - factor) * other, 0, 1)

    def turn(x):
        flat = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3)]
        flat = [colorsys.hsv_to_rgb((h + 0.2 * draws[3]) % 1, s, v) for h, s, v in flat]
        return np.array(flat).reshape(x.shape)

    changes = [
        lambda x: blend(x, np.zeros_like(x), factors[0]),
        lambda x: blend(x, grey(x).mean(), factors[1]),
        lambda x: blend(x, grey(x), factors[2]),
        turn,
    ]
    for index in order:
        image = changes[index](image)
    return image


def test_jitter_is_torchvisions_in_every_order():
    image = np.random.default_rng(1).random((6, 5, 3)).astype(np.float32)
    in_graph = tf.function(imagenet.jitter)
    orders = set()
    for seed in example_seeds(0, "jitter", np.arange(40)):
        draws = tf.random.stateless_uniform([4], seed, -1.0, 1.0, alg="philox").numpy()
        order = tf.random.experimental.stateless_shuffle(
            tf.range(4), seed + [0, 1 << 62], alg="philox"
        ).numpy()
        orders.add(tuple(order))
        got = in_graph(image, seed).numpy()
        np.testing.assert_allclose(got, numpy_jitter(image, draws, order), atol=2e-5)
    assert len(orders) > 15
    np.testing.assert_allclose(imagenet.jitter(image, seed), got, atol=1e-6)


def test_centre_view_resizes_the_shorter_side_and_crops():
    """A flat image stays flat; a ramp keeps its centre."""
    ramp = np.tile(np.linspace(0, 255, 512).astype(np.uint8)[None, :, None], (256, 1, 3))
    view = imagenet.centre_view(ramp, 224).numpy()
    assert view.shape == (224, 224, 3)
    # The shorter side is 256 already: only the crop remains.
    np.testing.assert_allclose(view, ramp[16:240, 144:368] / 255.0, atol=1e-6)
    flat = np.full((300, 90, 3), 51, np.uint8)
    np.testing.assert_allclose(imagenet.centre_view(flat, 32), 0.2, atol=1e-5)


def test_random_view_is_a_function_of_seed_and_position():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    one, again, other = (imagenet.random_view(image, 16, 0, p).numpy() for p in (3, 3, 4))
    assert one.shape == (16, 16, 3) and one.dtype == np.float32
    assert 0 <= one.min() and one.max() <= 1
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("encoded", [False, True])
def test_training_stream_covers_each_epoch_in_a_new_order(encoded):
    stream = StreamedImages(examples(10, encoded), 10, batch_size=4, image_size=16)
    assert stream.steps_per_epoch == 3
    batches = take(stream.batches(), 6)
    assert [len(y) for _, y in batches] == [4, 4, 2] * 2
    assert all(x.shape[1:] == (16, 16, 3) and x.dtype == np.float32 for x, _ in batches)
    assert all(100 < x.max() <= 255 and x.min() >= 0 for x, _ in batches)
    assert batches[0][1].dtype == np.int32
    first, second = (np.concatenate([y for _, y in batches[i : i + 3]]) for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("start_step", [3, 4])
def test_training_stream_continues(start_step):
    stream = StreamedImages(examples(), 10, batch_size=4, image_size=16, seed=1)
    whole = take(stream.batches(), start_step + 4)
    for got, expected in zip(take(stream.batches(start_step), 4), whole[start_step:], strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, got, expected)


def test_evaluation_stream_is_the_centre_of_each_example_in_order():
    dataset = imagenet.centre_batches(examples(5), 2, 16)
    batches = list(dataset.as_numpy_iterator())
    assert [len(y) for _, y in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), np.arange(5))
    images = [imagenet.centre_view(example["image"], 16).numpy() for example in examples(5)]
    got = np.concatenate([x for x, _ in batches])
    np.testing.assert_allclose(got, 255 * np.stack(images), rtol=1e-6)


def test_streams_of_a_prepared_data_set(tmp_path):
    """Through tensorflow-datasets, with encoded images of different sizes."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20 + i, 30, 3), np.uint8) for i in range(5)]
    splits = {"train": (pictures, [0, 1, 2, 0, 1]), "validation": (pictures[:3], [2, 1, 0])}
    store(tmp_path, "imagenet2012", splits, (None, None, 3), version="5.1.0")
    streams = imagenet.imagenet_streams(tmp_path, 2, image_size=16)
    assert streams.class_names == ("cat", "dog", "owl")
    assert streams.train.steps_per_epoch == 3
    epoch = take(streams.train.batches(), 3)
    assert sorted(np.concatenate([y for _, y in epoch])) == [0, 0, 1, 1, 2]
    assert [y.tolist() for _, y in streams.validation.as_numpy_iterator()] == [[2, 1], [0]]
    with pytest.raises(InputError, match="'grey' must have colour images and the splits"):
        store(tmp_path, "grey", {"train": (pictures, [0] * 5)}, (None, None, 3))
        imagenet.imagenet_streams(tmp_path, 2, name="grey")


def test_a_set_stored_class_by_class_is_noticed_where_the_buffer_does_not_mix_it(
    tmp_path, monkeypatch
):
    pictures = np.zeros((5, 20, 30, 3), np.uint8)
    splits = {"train": (pictures, [0, 0, 1, 1, 2]), "validation": (pictures[:1], [2])}
    store(tmp_path, "imagenet2012", splits, (None, None, 3), version="5.1.0")
    seen = []
    monkeypatch.setattr(imagenet, "warn_if_by_class", lambda *arguments: seen.append(arguments))
    imagenet.imagenet_streams(tmp_path, 2, shuffle_buffer=5)
    assert not seen
    imagenet.imagenet_streams(tmp_path, 2, shuffle_buffer=4)
    ((name, labels, num_classes, examples_),) = seen
    assert (name, num_classes, examples_) == ("imagenet2012", 3, 5)
    assert labels.tolist() == [0, 0, 1, 1, 2]
    file = next(tmp_path.rglob("*-train.*"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        imagenet.imagenet_streams(tmp_path, 2, shuffle_buffer=4)


def test_errors(tmp_path):
    with pytest.raises(InputError, match="A batch of 11 .* the training data has only 10;"):
        StreamedImages(examples(), 10, batch_size=11)
    with pytest.raises(
        InputError, match="start_step must be a whole number of 0 or more. Received: -1"
    ):
        StreamedImages(examples(), 10, batch_size=2).batches(-1)
    with pytest.raises(InputError, match="'imagenet2012' was not found in"):
        imagenet.imagenet_streams(tmp_path, 8)
