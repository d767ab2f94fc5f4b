"""Defaults of the programs that depend on a size: none defeats another, whatever the images."""

import dataclasses
import json

import numpy as np
import pytest
from absl import flags

from darts_tf import data
from darts_tf.bin import common, pipeline, search_cnn, search_rnn, train_cnn, train_rnn
from darts_tf.errors import InputError
from tests.programs import run


def bare(program, settings, prefix="", dataset=()):
    """What the flags of a program say by default."""
    values = flags.FlagValues()
    program.define_flags(values)
    values(["program", "--workdir=run", *dataset])
    if program is pipeline:
        pipeline.settle(values)
    return common.settings_of(settings, values, prefix)


def images_of(side, count=96):
    """A data set of that image size; no pixel is black."""
    source = np.random.default_rng(side)
    images = source.integers(1, 256, (count, side, side, 3), np.uint8)
    labels = np.arange(count, dtype=np.int32) % 2
    layer = data.normalization(images)
    return data.ImageData("own", images, labels, None, None, images, labels, ("a", "b"), layer)


TRAININGS = [(train_cnn, ""), (pipeline, "train_")]


def test_the_defaults_of_the_pipeline_are_those_of_the_training():
    first, second = (bare(program, train_cnn.TrainSettings, p) for program, p in TRAININGS)
    assert first == second


@pytest.mark.parametrize("side", [8, 9, 16, 28, 32, 64])
def test_images_of_any_size_are_trained_on_with_most_of_what_they_show(side):
    settings = bare(train_cnn, train_cnn.TrainSettings)
    image_data = images_of(side)
    streams = train_cnn.streams_of_images(settings, image_data)
    (batch, _), *_ = streams.train.batches().take(1).as_numpy_iterator()
    normalised = streams.preprocessing(batch).numpy()
    black = streams.preprocessing(np.zeros((1, side, side, 3))).numpy()
    cut, padded = (np.isclose(normalised, what, atol=1e-6).all(-1) for what in (0, black))
    shown = 1 - (cut | padded).mean((1, 2))
    assert len(batch) == settings.batch_size == 96
    # A square of half the side, and on each side an eighth.
    assert shown.min() > 0.45 and cut.mean((1, 2)).max() <= 0.25
    assert cut.any((1, 2)).mean() > 0.9 and padded.any((1, 2)).mean() > 0.8
    published = train_cnn.augmentation_of(settings, image_data)
    assert (published.cutout, published.padding) == (side // 2, min(4, side // 8))


def test_bare_defaults_are_for_the_data_set_that_is_the_default():
    """Digits: the batches fit, the images are large enough, and no image is blank."""
    digits = data.load_images("digits")
    for program, prefix in TRAININGS:
        settings = bare(program, train_cnn.TrainSettings, prefix)
        streams = train_cnn.streams_of_images(settings, digits)
        (x, y), *_ = streams.train.batches().take(1).as_numpy_iterator()
        assert x.std((1, 2, 3)).min() > 20 and set(y) == set(range(10))
    for program, prefix in ((search_cnn, ""), (pipeline, "search_")):
        settings = bare(program, search_cnn.SearchSettings, prefix)
        pairing = search_cnn.pairing_of(settings, digits)
        ((x, _), (v, _)), *_ = pairing.stream().take(1).as_numpy_iterator()
        assert min(x.std((1, 2, 3)).min(), v.std((1, 2, 3)).min()) > 20


def test_bare_defaults_are_for_the_text_that_is_the_default():
    corpus = data.builtin_corpus()
    topics = ("--dataset=python_topics",)
    for program, prefix, named in (
        (search_rnn, "", ()),
        (pipeline, "search_", topics),
    ):
        settings = bare(program, search_rnn.SearchSettings, prefix, named)
        windows = search_rnn.windows_of(settings, corpus)
        assert windows.steps(0) >= 5
        ((x, _), (v, _)), *_ = windows.batches(0).take(1).as_numpy_iterator()
        assert min(x.shape[1], v.shape[1]) >= 15 and x.shape[0] == v.shape[0] == 256
    for program, prefix, named in ((train_rnn, "", ()), (pipeline, "train_", topics)):
        settings = bare(program, train_rnn.TrainSettings, prefix, named)
        assert train_rnn.windows_of(settings, corpus).steps(0) >= 20


def test_a_training_by_its_defaults_learns(tmp_path):
    """Only smaller, and for less long."""
    small = ("--epochs=6", "--layers=3", "--init_channels=6", "--batch_size=48")
    assert run(train_cnn, *small, f"--workdir={tmp_path}") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.5  # of blank images 0.1


@pytest.mark.parametrize(("side", "length"), [(8, 8), (8, 16), (16, 16), (9, 9)])
def test_a_square_that_covers_whole_images_is_refused(side, length):
    settings = train_cnn.TrainSettings(cutout_length=length)
    words = f"--cutout_length={length} covers the whole of images of {side}x{side} px"
    with pytest.raises(InputError, match=words) as raised:
        train_cnn.streams_of_images(settings, images_of(side))
    assert "add --nocutout" in str(raised.value) and "\n" not in str(raised.value)
    without = dataclasses.replace(settings, cutout=False)
    assert train_cnn.augmentation_of(without, images_of(side)).cutout == 0


def test_the_auxiliary_head_fits_every_image_that_the_network_takes():
    from darts_tf import EvaluationNetwork, genotype

    found = genotype.zoo.genotype("DARTS_V2")
    for layers in range(1, 6):  # where the reductions and the head stand repeats by threes
        network = EvaluationNetwork(found, 2, 1, layers, True, image_shape=(8, 8, 1))
        assert (
            network.forward(np.zeros((2, 8, 8, 1), np.float32), True).auxiliary_logits is not None
        )


def test_settings_that_have_no_default_are_not_in_flags_txt(tmp_path):
    from darts_tf.bin import devices, work_folder

    values = flags.FlagValues()
    train_cnn.define_flags(values)
    values(["program", f"--workdir={tmp_path}"])
    with work_folder.prepared(values, devices.ONE_DEVICE, {}) as folder:
        assert "cutout_length" not in (folder / "flags.txt").read_text()
    values(["program", f"--workdir={tmp_path}", "--cutout_length=4"])
    with pytest.raises(InputError, match="--cutout_length was not set, now 4"):
        work_folder.check(values)
