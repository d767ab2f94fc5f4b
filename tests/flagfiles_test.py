"""The flagfiles: every one is accepted by its program, and the published ones hold what was
published."""

import importlib
import pathlib
import re

import pytest
from absl import flags

from tests.programs import FLAGS, ROOT

FILES = sorted(path.name for path in FLAGS.glob("*"))
COMMAND = r"python -m (darts_tf\.bin\.\w+) --flagfile=flags/(\S+)"

SEARCH = {
    "dataset": "cifar10",
    "init_channels": 16,
    "layers": 8,
    "nodes": 4,
    "epochs": 50,
    "batch_size": 64,
    "learning_rate": 0.025,
    "learning_rate_min": 0.001,
    "momentum": 0.9,
    "weight_decay": 3e-4,
    "grad_clip": 5.0,
    "arch_learning_rate": 3e-4,
    "arch_weight_decay": 1e-3,
    "train_portion": 0.5,
    "seed": 2,
}
TRAIN = {
    "genotype": "DARTS_V2",
    "momentum": 0.9,
    "grad_clip": 5.0,
    "auxiliary": True,
    "auxiliary_weight": 0.4,
    "test_every_epoch": False,
    "seed": 0,
}
PUBLISHED = {
    "search_cnn_cifar10_first_order.flags": SEARCH | {"order": "first"},
    "search_cnn_cifar10_second_order.flags": SEARCH | {"order": "second_fd"},
    "train_cnn_cifar10.flags": TRAIN
    | {
        "dataset": "cifar10",
        "init_channels": 36,
        "layers": 20,
        "epochs": 600,
        "batch_size": 96,
        "learning_rate": 0.025,
        "learning_rate_decay": 0.0,
        "weight_decay": 3e-4,
        "drop_path_prob": 0.2,
        "cutout": True,
        "cutout_length": 16,
        "label_smoothing": 0.0,
    },
    "train_cnn_imagenet.flags": TRAIN
    | {
        "dataset": "imagenet2012",
        "init_channels": 48,
        "layers": 14,
        "epochs": 250,
        "batch_size": 128,
        "learning_rate": 0.1,
        "learning_rate_decay": 0.97,
        "weight_decay": 3e-5,
        "drop_path_prob": 0.0,
        "cutout": False,
        "label_smoothing": 0.1,
    },
    "toy_bilevel.flags": {
        "xi": ["0", "0.2", "0.5", "0.7"],
        "steps": 100,
        "learning_rate": 0.1,
        "order": "second_exact",
    },
}


def comments(name):
    """The comments of a flagfile as one line."""
    lines = (FLAGS / name).read_text(encoding="utf-8").splitlines()
    return " ".join(" ".join(line[1:] for line in lines if line.startswith("#")).split())


def included():
    """The flagfiles that others read."""
    texts = [(FLAGS / name).read_text(encoding="utf-8") for name in FILES]
    lines = [line for text in texts for line in text.splitlines()]
    return {line.split("/")[-1] for line in lines if line.startswith("--flagfile=flags/")}


def parsed(name, monkeypatch):
    """The flags of the program that a flagfile names in its head, as the file sets them."""
    program = importlib.import_module(re.search(COMMAND, comments(name))[1])
    values = flags.FlagValues()
    program.define_flags(values)
    monkeypatch.chdir(ROOT)
    rest = values(["program", f"--flagfile=flags/{name}", "--workdir=x", "--undefok=workdir"])
    assert rest[1:] == []
    return values


RUNNABLE = [name for name in FILES if name not in included()]


def test_there_are_flagfiles_and_only_one_is_read_by_others():
    assert included() == {"search_cnn_cifar10_base.flags"}
    assert len(RUNNABLE) >= 9
    assert all(pathlib.Path(name).suffix == ".flags" for name in FILES)


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_head_names_a_command_with_this_file_and_what_to_expect(name):
    head = comments(name)
    assert re.search(COMMAND, head)[2] == name
    assert re.search("published|expected:", head, re.IGNORECASE)


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_program_accepts_every_line_and_its_settings_are_in_range(name, monkeypatch):
    from darts_tf.bin import common
    from darts_tf.bin.search_cnn import SearchSettings
    from darts_tf.bin.train_cnn import TrainSettings

    values = parsed(name, monkeypatch)
    own = (FLAGS / name).read_text(encoding="utf-8").splitlines()
    named = [line[2:].split("=")[0] for line in own if line.startswith("--")]
    for flag in named:
        if flag != "flagfile":
            assert values[flag.removeprefix("no") if flag not in values else flag].present
    for settings, first, prefixes in (
        (SearchSettings, "arch_learning_rate", ("", "search_")),
        (TrainSettings, "drop_path_prob", ("", "train_")),
    ):
        for prefix in prefixes:
            if prefix + first in values:
                common.settings_of(settings, values, prefix)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_values_are_the_published_ones(name, monkeypatch):
    values = parsed(name, monkeypatch)
    assert {flag: values[flag].value for flag in PUBLISHED[name]} == PUBLISHED[name]


def test_the_defaults_of_search_and_training_are_the_published_ones_for_cifar10():
    from darts_tf.bin.search_cnn import SearchSettings
    from darts_tf.bin.train_cnn import TrainSettings

    for settings, name in (
        (SearchSettings(), "search_cnn_cifar10_second_order.flags"),
        (TrainSettings(), "train_cnn_cifar10.flags"),
    ):
        expected = {k: v for k, v in PUBLISHED[name].items() if hasattr(settings, k)}
        assert {flag: getattr(settings, flag) for flag in expected} == expected


def test_every_flagfile_is_run_by_a_test():
    from tests.binaries_test import RUN_BY

    assert sorted(RUN_BY) == FILES
