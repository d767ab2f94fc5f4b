"""The flagfiles: every one is accepted by its program, and the published ones hold what was
published."""

import dataclasses
import importlib
import pathlib
import re

import pytest
from absl import flags

from darts_tf.bin import common, pipeline, search_cnn, search_rnn, text, train_cnn, train_rnn
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
    "split": "published",
    "class_weight": "none",
    "seed": 2,
}
TRAIN = {
    "genotype": "DARTS_V2",
    "momentum": 0.9,
    "grad_clip": 5.0,
    "auxiliary": True,
    "auxiliary_weight": 0.4,
    "class_weight": "none",
    "test_every_epoch": False,
    "seed": 0,
}
LANGUAGE = {
    "dataset": "text",
    "vocabulary": "all",
    "min_count": 1,
    "evaluation_batch_size": 10,
    "bptt": 35,
    "learning_rate": 20.0,
    "grad_clip": 0.25,
    "dropout": 0.75,
    "dropoutx": 0.75,
    "dropouti": 0.2,
    "alpha": 0.0,
    "beta": 1e-3,
}
SEARCH_RNN = LANGUAGE | {
    "published_quirks": False,
    "epochs": 50,
    "batch_size": 256,
    "nhid": 300,
    "nodes": 8,
    "weight_decay": 5e-7,
    "dropouth": 0.25,
    "dropoute": 0.0,
    "arch_learning_rate": 3e-3,
    "arch_weight_decay": 1e-3,
    "seed": 3,
}
TRAIN_RNN = LANGUAGE | {
    "genotype": "DARTS_V2",
    "epochs": 8000,
    "batch_size": 64,
    "test_batch_size": 1,
    "nonmono": 5,
    "dropoute": 0.1,
    "seed": 1267,
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
    "search_rnn_ptb_first_order.flags": SEARCH_RNN | {"order": "first"},
    "search_rnn_ptb_second_order.flags": SEARCH_RNN | {"order": "second_fd"},
    "train_rnn_ptb.flags": TRAIN_RNN | {"nhid": 850, "weight_decay": 8e-7, "dropouth": 0.25},
    "train_rnn_wikitext2.flags": TRAIN_RNN | {"nhid": 700, "weight_decay": 5e-7, "dropouth": 0.15},
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
    if program is pipeline:
        pipeline.settle(values)
    return values


RUNNABLE = [name for name in FILES if name not in included()]


def test_there_are_flagfiles_and_two_are_read_by_others():
    assert included() == {"search_cnn_cifar10_base.flags", "search_rnn_ptb_base.flags"}
    assert len(RUNNABLE) >= 14
    assert all(pathlib.Path(name).suffix == ".flags" for name in FILES)


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_head_names_a_command_with_this_file_and_what_to_expect(name):
    head = comments(name)
    assert re.search(COMMAND, head)[2] == name
    assert re.search("published|expected:", head, re.IGNORECASE)


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_program_accepts_every_line_and_its_settings_are_in_range(name, monkeypatch):
    values = parsed(name, monkeypatch)
    own = (FLAGS / name).read_text(encoding="utf-8").splitlines()
    named = [line[2:].split("=")[0] for line in own if line.startswith("--")]
    for flag in named:
        if flag != "flagfile":
            assert values[flag.removeprefix("no") if flag not in values else flag].present
    of_text = "dataset" in values and values.dataset in text.DATASETS
    for prefix, settings in pipeline.STAGES["text" if of_text else "images"]:
        for start in ("", prefix):
            if all(start + field.name in values for field in dataclasses.fields(settings)):
                common.settings_of(settings, values, start)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_values_are_the_published_ones(name, monkeypatch):
    values = parsed(name, monkeypatch)
    assert {flag: values[flag].value for flag in PUBLISHED[name]} == PUBLISHED[name]


def test_the_defaults_of_search_and_training_are_the_published_ones():
    for settings, name in (
        (search_cnn.SearchSettings(), "search_cnn_cifar10_second_order.flags"),
        (train_cnn.TrainSettings(), "train_cnn_cifar10.flags"),
        (search_rnn.SearchSettings(), "search_rnn_ptb_second_order.flags"),
        (train_rnn.TrainSettings(), "train_rnn_ptb.flags"),
    ):
        expected = {k: v for k, v in PUBLISHED[name].items() if hasattr(settings, k)}
        # Half the image's side by default, which is that of CIFAR-10.
        expected.pop("cutout_length", None)
        assert len(expected) > 10
        assert {flag: getattr(settings, flag) for flag in expected} == expected


def test_every_flagfile_is_run_by_a_test():
    from tests import binaries_rnn_test, binaries_test

    assert sorted([*binaries_test.RUN_BY, *binaries_rnn_test.RUN_BY]) == FILES
