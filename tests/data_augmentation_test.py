"""Augmentation against plain NumPy, eagerly and inside tf.data."""

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.data import augmentation
from darts_tf.data.augmentation import Augmentation
from darts_tf.data.normalization import published_normalization
from darts_tf.errors import InputError


def images(count=6, side=32, channels=3, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (count, side, side, channels), np.uint8)


def seeds(count, seed=0, purpose="crop"):
    return augmentation.example_seeds(seed, purpose, np.arange(count))


def splitmix(key, counter):
    """The published generator, in Python integers."""
    bits = (key + counter * 0x9E3779B97F4A7C15) % 2**64
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % 2**64
    return (bits ^ (bits >> 31)) >> 1


def draws(count, limits, seed=0, purpose="crop"):
    """uint (count, limits): what an operation draws, computed independently."""
    return np.array(
        [
            [splitmix(int(key), int(p) * len(limits) + i) % limit for i, limit in enumerate(limits)]
            for key, p in seeds(count, seed, purpose).numpy()
        ]
    )


def test_pad_and_crop_is_the_numpy_crop_at_the_drawn_offsets():
    x = images()
    got = augmentation.pad_and_crop(x, 4, seeds(6)).numpy()
    padded = np.pad(x, [(0, 0), (4, 4), (4, 4), (0, 0)])
    for index, (top, left) in enumerate(draws(6, [9, 9])):
        np.testing.assert_array_equal(got[index], padded[index, top : top + 32, left : left + 32])
    assert got.dtype == np.uint8


def test_all_crop_offsets_are_equally_likely():
    """81 offsets; chi square with 80 degrees of freedom exceeds 125 once in a thousand times."""
    count = 16200
    marker = np.zeros((count, 9, 9, 1), np.uint8)
    marker[:, 4, 4] = 1
    got = augmentation.pad_and_crop(marker, 4, seeds(count)).numpy()[..., 0]
    assert (got.sum((1, 2)) == 1).all()  # The marker in the centre can reach all 81 places.
    observed = got.sum(0)
    assert ((observed - 200.0) ** 2 / 200.0).sum() < 125


def test_flip_is_fair_and_mirrors_the_width():
    x = images(count=2000, side=4)
    got = augmentation.horizontal_flip(x, seeds(2000, purpose="flip")).numpy()
    flipped = draws(2000, [2], purpose="flip")[:, 0] == 1
    np.testing.assert_array_equal(got, np.where(flipped[:, None, None, None], x[:, :, ::-1], x))
    assert 900 < flipped.sum() < 1100


def test_the_operations_draw_independently():
    """Crop, flip and neighbouring seeds share no stream."""
    columns = [draws(4000, [2], seed=s, purpose=p)[:, 0] for s in (0, 1) for p in ("crop", "flip")]
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 0.06


def test_padding_is_black_before_the_normalisation():
    """The published corner colour (zero padding comes first)."""
    white = np.full((200, 32, 32, 3), 255, np.uint8)
    got = augmentation.augment(white, Augmentation(), 0, np.arange(200))
    assert got.dtype == tf.uint8
    smallest = published_normalization("cifar10")(got).numpy().min((0, 1, 2))
    np.testing.assert_allclose(smallest, (-1.98921202, -1.98023768, -1.70700409), atol=1e-6)


@pytest.mark.parametrize(
    ("centre", "area"),
    [((0, 0), 64), ((0, 31), 72), ((31, 31), 81), ((7, 25), 225), ((16, 16), 256)],
)
def test_cutout_area_of_fixed_centres(centre, area):
    mask = augmentation.cutout_mask(32, 32, *centre, 16).numpy()
    assert mask.shape == (32, 32)
    assert (~mask).sum() == area
    assert not mask[centre]


def test_cutout_mean_area_over_all_centres():
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    masks = augmentation.cutout_mask(32, 32, rows.ravel(), columns.ravel(), 16).numpy()
    assert (~masks).sum((1, 2)).mean() == 14**2


def test_cutout_zeroes_the_half_open_square_in_all_channels():
    x = images(count=50).astype(np.float32)
    got = augmentation.cutout(x, 16, seeds(50, purpose="cutout")).numpy()
    expected = x.copy()
    for index, (y, x_) in enumerate(draws(50, [32, 32], purpose="cutout")):
        expected[index, max(y - 8, 0) : y + 8, max(x_ - 8, 0) : x_ + 8] = 0
    np.testing.assert_array_equal(got, expected)


def test_cutout_is_zero_after_the_normalisation_as_published():
    layer = published_normalization("cifar10")
    filled = Augmentation(0, False, 16, tuple(layer.input_mean))
    x = images(count=20)
    got = layer(augmentation.augment(x, filled, 3, np.arange(20))).numpy()
    plain = layer(x.astype(np.float32)).numpy()
    expected = augmentation.cutout(plain, 16, seeds(20, 3, "cutout")).numpy()
    assert (expected == 0).mean() > 0.1
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, s: augmentation.pad_and_crop(x, 2, s),
        augmentation.horizontal_flip,
        lambda x, s: augmentation.cutout(x, 6, s),
        lambda x, s: augmentation.augment(x, Augmentation(2, True, 6, (1.5, 2, 3)), 3, s[:, 1]),
    ],
    ids=["pad_and_crop", "horizontal_flip", "cutout", "augment"],
)
def test_eager_and_tf_data_agree_whatever_the_batch(operation):
    """The same seeds give the same images, in a whole batch or in batches of 4 and 2."""
    x, s = images(side=8), seeds(6, seed=5)
    eager = operation(x, s).numpy()
    dataset = tf.data.Dataset.from_tensor_slices((x, s)).batch(4).map(operation)
    in_graph = np.concatenate(list(dataset.as_numpy_iterator()))
    np.testing.assert_array_equal(eager, in_graph)
    assert dataset.element_spec.shape[1:] == (8, 8, 3)


def test_nothing_to_do_changes_nothing():
    x = images()
    got = augmentation.augment(x, augmentation.NO_AUGMENTATION, 0, np.arange(6))
    assert got.dtype == tf.uint8
    np.testing.assert_array_equal(got, x)


def test_default_augmentations():
    def default(name, side, channels=3):
        return augmentation.default_augmentation(name, (side, side, channels))

    assert default("cifar10:3.0.2", 32) == Augmentation(4, True, 0)
    assert default("digits", 8, 1) == Augmentation(1, False, 0)
    assert default("emnist/balanced", 28, 1) == Augmentation(2, False, 0)
    assert default("fashion_mnist", 28, 1).flip
    assert not default("svhn_cropped", 32).flip
    # At most an eighth of the side, as 4 of 32.
    assert [default("own", side).padding for side in (8, 16, 32, 96)] == [1, 2, 4, 4]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: Augmentation(padding=-1),
            "padding must be a whole number of 0 or more. Rec.*: -1",
        ),
        (lambda: Augmentation(cutout=-2), "cutout must be a whole number of 0 or more. Rec.*: -2"),
        (lambda: Augmentation(0, True, 8).check_size((9, 8, 1)), "cutout=8 covers the whole of"),
        (lambda: Augmentation(9).check_size((9, 12, 1)), "padding=9 covers .* must be less than 9"),
        (lambda: Augmentation(0, True, 4, (1, 2)).check_size((9, 9, 1)), "fill has 2 channels"),
        (lambda: seeds(1, seed=-1), "seed must be a whole number of 0 or more. Rec.*: -1"),
        (lambda: seeds(1, seed=0.5), "seed must be a whole number of 0 or more. Rec.*: 0.5"),
    ],
)
def test_errors(call, words):
    with pytest.raises(InputError, match=words):
        call()
