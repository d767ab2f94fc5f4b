"""Every value of every enumerated flag is run once through the program that has it, cut down.

What is enumerated is read from the programs' own flags: a new value, or a new flag, that no run
below has fails `test_every_value_is_run_or_it_is_said_why_not`.
"""

import importlib
import json
import pathlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from darts_tf import bin as programs
from darts_tf.bin import export, workloads
from darts_tf.search import bilevel
from darts_tf.training import distribution
from tests.programs import run

PROGRAMS = {
    name: module
    for _, name, _ in pkgutil.iter_modules(programs.__path__)
    if hasattr(module := importlib.import_module(f"darts_tf.bin.{name}"), "main")
}

NAMES = {
    "order": bilevel.ORDERS,
    "strategy": distribution.STRATEGIES,
    "formats": export.FORMATS,
}
"""The flags of text that take one name of several, without the prefix of a stage."""

FREE = {
    *("workdir", "output", "data_dir", "dataset", "genotype", "title", "alphas", "supernet"),
    *("against", "xi", "learning_rates", "class_weight"),
}
"""The flags of text that take any."""

SEARCH = ("--epochs=1", "--layers=1", "--nodes=1", "--init_channels=2", "--limit=32")
TRAIN = ("--epochs=1", "--layers=2", "--init_channels=4", "--limit=32", "--batch_size=16")
TEXT = ("--nhid=4", "--batch_size=2", "--evaluation_batch_size=2", "--epochs=1", "--bptt=5")
CORPUS = ("--dataset=text", "--data_dir={corpus}")

RUNS = {
    "search_cnn": [
        (
            *(*SEARCH, "--batch_size=8", "--order=first", "--deterministic"),
            *("--graph_optimizer=on", "--strategy=one_device"),
        ),
        (
            *(*SEARCH, "--batch_size=8", "--order=second_fd", "--nodeterministic", "--recompute"),
            *("--graph_optimizer=off", "--mixed_precision=bfloat16", "--nosync_batch_norm"),
            "--split=published",
        ),
        (
            *(*SEARCH, "--batch_size=8", "--order=second_exact", "--strategy=mirrored"),
            "--mixed_precision=float16",
        ),
    ],
    "train_cnn": [
        (*TRAIN, "--noauxiliary", "--nocutout", "--deterministic", "--graph_optimizer=on"),
        (
            *(*TRAIN, "--test_every_epoch", "--cutout_length=4", "--nodeterministic"),
            *("--mixed_precision=bfloat16", "--graph_optimizer=off", "--strategy=one_device"),
            *("--nosync_batch_norm", "--split=published"),
        ),
        (*TRAIN, "--cutout_length=4", "--mixed_precision=float16", "--strategy=mirrored"),
    ],
    "search_rnn": [
        (*TEXT, *CORPUS, "--nodes=1", "--order=first", "--deterministic", "--graph_optimizer=on"),
        (
            *(*TEXT, *CORPUS, "--nodes=1", "--order=second_fd", "--published_quirks"),
            *("--vocabulary=train", "--mixed_precision=bfloat16", "--graph_optimizer=off"),
            *("--strategy=one_device", "--nodeterministic"),
        ),
        (
            *(*TEXT, *CORPUS, "--nodes=1", "--order=second_exact", "--mixed_precision=float16"),
            *("--strategy=mirrored", "--nosync_batch_norm"),
        ),
    ],
    "train_rnn": [
        (*TEXT, *CORPUS, "--deterministic", "--graph_optimizer=on", "--strategy=one_device"),
        (
            *(*TEXT, *CORPUS, "--vocabulary=train", "--mixed_precision=bfloat16"),
            *("--nodeterministic", "--graph_optimizer=off", "--nosync_batch_norm"),
        ),
        (*TEXT, *CORPUS, "--mixed_precision=float16", "--strategy=mirrored"),
    ],
    "export": [
        ("--workdir={train_cnn_2}", "--formats=saved_model,tflite"),
        ("--workdir={train_rnn_2}",),
    ],
    "toy_bilevel": [
        ("--steps=1", f"--order={order}", "--output={folder}/toy.png") for order in bilevel.ORDERS
    ],
    "plot": [
        ("--genotype=DARTS_V2", f"--kind={kind}", "--output={folder}/cell.svg")
        for kind in ("cnn", "rnn")
    ],
}
"""Runs of each program; {program_k} is the work folder of its run number k."""

ELSEWHERE = {
    ("strategy", "multi_worker"): "several processes: bin_launch_test, distribution_test",
    ("jit_compile", True): "XLA compiles a step for half a minute on a CPU",
} | {("mode", mode): "bin_benchmark_test" for mode in workloads.MODES}
"""Values that cannot be run here: where they are run, or why not."""

AS_IN = {
    "pipeline": ("search_cnn", "train_cnn", "search_rnn", "train_rnn"),
    "compare_rnn": ("train_rnn",),
    "benchmark": ("search_cnn", "train_cnn"),
    "verify": ("search_cnn",),
    "soak": ("train_cnn",),
}
"""Programs that have flags of others, and do with them what those do."""


def flags_of(program, arguments=()):
    """The program's flags; with arguments the parsed ones."""
    values = flags.FlagValues()
    PROGRAMS[program].define_flags(values)
    if arguments:
        required = [f"--{n}=x" for n in ("workdir", "output") if n in values]
        values(["program", *required, *(a.replace("{", "").replace("}", "") for a in arguments)])
        if program == "pipeline":
            PROGRAMS[program].settle(values)
    return values


def stem(name):
    """The name of a flag without the prefix of a stage of the pipeline."""
    return name.removeprefix("search_").removeprefix("train_")


def values_of(flag):
    """The values of an enumerated flag; None of any other."""
    if flag.boolean:
        return (True, False)
    if isinstance(flag.parser, flags.EnumParser):
        return tuple(flag.parser.enum_values)
    return NAMES.get(stem(flag.name))


def pairs(program):
    """Every (flag, value) of the enumerated flags."""
    found = flags_of(program)
    own = {name for name in found if values_of(found[name]) is not None}
    return {(stem(name), value) for name in own for value in values_of(found[name])}


def run_pairs(program):
    """Every (flag, value) of the runs, and of the programs whose flags this one has."""
    found = set()
    for arguments in RUNS.get(program, ()):
        parsed = flags_of(program, arguments)
        for name in parsed:
            if values_of(parsed[name]) is not None:
                value = parsed[name].value
                found |= {(stem(name), v) for v in (value if isinstance(value, list) else [value])}
    return found.union(*map(run_pairs, AS_IN.get(program, ())))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_value_is_run_or_it_is_said_why_not(program):
    missing = pairs(program) - run_pairs(program) - set(ELSEWHERE)
    assert not missing, f"add a run to RUNS[{program!r}], or a reason to ELSEWHERE"
    found = flags_of(program)
    unknown = {
        name
        for name in found
        if found[name].flag_type() not in ("bool", "int", "float", "string enum")
        and stem(name) not in {*NAMES, *FREE}
    }
    assert not unknown, "a flag of text is in NAMES, with the values it takes, or in FREE"


def test_reasons_are_of_values_that_there_are():
    assert set(ELSEWHERE) <= set().union(*map(pairs, PROGRAMS))
    assert set(RUNS) | set(AS_IN) <= set(PROGRAMS)


@pytest.fixture(autouse=True)
def settings_end_with_a_test():
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What stands in braces in RUNS."""
    corpus = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    for part, lines in (("train", 12), ("valid", 8), ("test", 5)):
        words = generator.choice(["the", "cat", "sat", "<unk>"], (lines, 4))
        (corpus / f"{part}.txt").write_text("".join(f" {' '.join(line)} \n" for line in words))
    folder = tmp_path_factory.mktemp("runs")
    found = {"corpus": corpus, "folder": folder}
    return found | {f"{p}_{k}": folder / f"{p}_{k}" for p in RUNS for k in range(len(RUNS[p]))}


@pytest.mark.parametrize(
    ("program", "number"), [(p, number) for p in RUNS for number in range(len(RUNS[p]))]
)
def test_runs_end_well(program, number, places, capsys):
    folder = places[f"{program}_{number}"]
    arguments = [a.format_map(places) for a in RUNS[program][number]]
    found = flags_of(program)
    for name in ("workdir", "output"):
        if name in found and not any(a.startswith(f"--{name}=") for a in arguments):
            arguments.append(f"--{name}={folder}")
    assert run(PROGRAMS[program], *arguments) == 0, capsys.readouterr().err
    records = folder / "metrics.jsonl"
    for line in records.read_text().splitlines() if records.exists() else ():
        assert np.isfinite(list(json.loads(line).values())).all()
    if "workdir" in found and program != "export":
        assert any(pathlib.Path(folder).rglob("*.checkpoint"))
