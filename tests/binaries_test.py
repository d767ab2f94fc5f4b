"""Every program and every flagfile, cut down, for a few steps: what is written and said."""

import json
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from darts_tf import data, genotype
from darts_tf.bin import export, pipeline, search_cnn, toy_bilevel, train_cnn
from tests.programs import (
    FLAGS,
    alphas,
    at_the_root,
    contents,
    finished,
    rows,
    run,
    store_cifar10,
    store_imagenet,
)

__all__ = ["at_the_root"]  # pytest finds the fixture by its name here

RUN_BY = {
    "compare_orders_cifar10.flags": "test_the_pipeline_on_another_data_set",
    "quickstart_digits.flags": "test_the_pipeline_leaves_its_results_in_the_work_folder_itself",
    "search_cnn_cifar10_base.flags": "test_the_published_searches_run",
    "search_cnn_cifar10_first_order.flags": "test_the_published_searches_run",
    "search_cnn_cifar10_second_order.flags": "test_the_published_searches_run",
    "smoke_search_cnn.flags": "test_a_search_writes_its_records",
    "smoke_train_cnn.flags": "test_a_training_writes_its_figures_and_a_model_that_loads",
    "toy_bilevel.flags": "test_the_toy_problem_runs",
    "train_cnn_cifar10.flags": "test_the_published_trainings_run",
    "train_cnn_imagenet.flags": "test_the_published_trainings_run",
}
"""The test that runs each flagfile; `flagfiles_test` compares with the folder."""

TINY_SEARCH = ("--layers=1", "--nodes=1", "--init_channels=2")
TINY_TRAINING = ("--layers=1", "--init_channels=4", "--epochs=1")
TINY_PIPELINE = (
    *("--search_epochs=1", "--search_layers=1", "--search_nodes=1", "--search_init_channels=2"),
    *("--train_epochs=1", "--train_layers=1", "--train_init_channels=2"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with tiny data sets that are called cifar10 and imagenet2012."""
    root = tmp_path_factory.mktemp("prepared")
    store_cifar10(str(root))
    store_imagenet(str(root))
    return root


def flagfile(name):
    assert name in RUN_BY
    return f"--flagfile={FLAGS / name}"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    small = ("--epochs=2", "--limit=64", "--batch_size=32")
    folder = tmp_path_factory.mktemp("runs") / "new" / "search"
    return finished(search_cnn, folder, flagfile("smoke_search_cnn.flags"), *TINY_SEARCH, *small)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    small = ("--epochs=2", "--limit=64", "--batch_size=32")
    folder = tmp_path_factory.mktemp("runs") / "train"
    return finished(train_cnn, folder, flagfile("smoke_train_cnn.flags"), *TINY_TRAINING, *small)


@pytest.fixture(scope="module")
def piped(tmp_path_factory):
    small = ("--limit=64", "--search_batch_size=64", "--train_batch_size=64")
    folder = tmp_path_factory.mktemp("runs") / "pipeline"
    return finished(pipeline, folder, flagfile("quickstart_digits.flags"), *TINY_PIPELINE, *small)


def test_a_search_writes_its_records(searched):
    folder = searched.folder
    found = rows(folder)
    assert [row["epoch"] for row in found] == [0, 1]
    names = {"epoch", "learning_rate", "loss", "arch_loss", "accuracy"}
    for row in found:
        assert set(row) == names | {"val_loss", "val_accuracy"}
        assert all(math.isfinite(value) for value in row.values())
    assert [row["learning_rate"] for row in found] == pytest.approx([0.025, 0.013])
    arrays = alphas(folder)
    assert {name: array.shape for name, array in arrays.items()} == {
        "epoch": (2,),
        "normal": (2, 2, 8),
        "reduce": (2, 2, 8),
    }
    assert arrays["epoch"].tolist() == [0, 1]
    assert np.abs(arrays["reduce"][1] - arrays["reduce"][0]).max() > 0
    assert sorted(path.name for path in (folder / "plots").iterdir()) == ["alphas.png", "cells.svg"]


def test_the_genotype_of_a_search_is_that_of_its_last_alphas_with_where_it_comes_from(searched):
    path = searched.folder / "genotype.json"
    arrays = alphas(searched.folder)
    assert genotype.load(path) == genotype.derive(arrays["normal"][-1], arrays["reduce"][-1])
    provenance = genotype.load_provenance(path)
    given = {"program": "search_cnn", "dataset": "digits", "order": "first", "epochs": 2, "seed": 2}
    assert given.items() <= provenance.items()
    assert provenance["epochs_done"] == 2
    last = rows(searched.folder)[-1]
    assert provenance["metrics"]["val_loss"] == pytest.approx(last["val_loss"], abs=1e-6)


@pytest.mark.parametrize("made", ["searched", "trained", "piped"])
def test_the_flags_of_a_run_are_read_back_with_flagfile(made, request):
    made = request.getfixturevalue(made)

    def flags_of(*arguments):
        values = flags.FlagValues()
        made.program.define_flags(values)
        values(["program", *arguments])
        if made.program is pipeline:
            pipeline.settle(values)
        return {name: values[name].value for name in values}

    path = made.folder / "flags.txt"
    assert flags_of(f"--flagfile={path}", f"--workdir={made.folder}") == flags_of(*made.command)


@pytest.mark.parametrize("made", ["searched", "trained", "piped"])
def test_the_same_command_again_says_the_same_without_doing_the_work_again(
    made, request, monkeypatch, capsys
):
    made = request.getfixturevalue(made)
    before = contents(made.folder)

    def fit(*_, **__):
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr("keras.Model.fit", fit)
    assert run(made.program, *made.command) == 0
    said = capsys.readouterr().out
    assert re.search(r"^metrics ", said, re.MULTILINE) and str(made.folder) in said
    after = contents(made.folder)
    assert after.keys() == before.keys()
    # Pictures and the Keras file are written anew and hold the time.
    kept = [name for name in before if not name.endswith((".svg", ".png", ".keras"))]
    assert len(kept) >= 4
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_a_search_never_touches_the_test_part(prepared, tmp_path, monkeypatch):
    load = data.load_images
    touched = []

    class Guarded(data.ImageData):
        def __getattribute__(self, name):
            if name.startswith("test_"):
                touched.append(name)
                raise AssertionError("the test part was touched")
            return super().__getattribute__(name)

    def guarded(*arguments, **options):
        loaded = load(*arguments, **options)
        return Guarded(**vars(loaded))

    monkeypatch.setattr(data, "load_images", guarded)
    with pytest.raises(AssertionError, match="touched"):
        _ = data.load_images("digits").test_images
    touched.clear()
    small = ("--order=first", "--epochs=1", "--batch_size=8", f"--data_dir={prepared}")
    assert run(search_cnn, *TINY_SEARCH, *small, "--dataset=cifar10", f"--workdir={tmp_path}") == 0
    assert not touched


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_published_searches_run(order, prepared, tmp_path, capsys):
    name = f"search_cnn_cifar10_{order}_order.flags"
    small = ("--epochs=1", "--batch_size=8", f"--data_dir={prepared}", f"--workdir={tmp_path}")
    assert run(search_cnn, flagfile(name), *TINY_SEARCH, *small) == 0
    said = capsys.readouterr().out
    assert re.search(r"^search epoch 1/1 .* loss \d.* val_accuracy \d", said, re.MULTILINE)
    assert f"genotype    {tmp_path / 'genotype.json'}" in said
    provenance = genotype.load_provenance(tmp_path / "genotype.json")
    assert provenance["order"] == {"first": "first", "second": "second_fd"}[order]
    assert provenance["dataset"] == "cifar10"
    assert all(math.isfinite(value) for value in rows(tmp_path)[0].values())


def test_a_training_writes_its_figures_and_a_model_that_loads(trained):
    import keras

    from darts_tf.networks import evaluation  # noqa: F401  (registers the class)

    folder = trained.folder
    found = rows(folder)
    assert [row["epoch"] for row in found] == [0, 1]
    for row in found:
        # No figure of the test part: it is used once, at the end.
        assert set(row) == {"epoch", "learning_rate", "loss", "accuracy"}
        assert all(math.isfinite(value) for value in row.values())
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    images = data.load_images("digits", limit=64)
    network = keras.models.load_model(folder / "model.keras", compile=False)
    assert network.genotype == genotype.zoo.genotype("DARTS_V2")
    assert metrics["weights"] == network.count_weights()
    assert (metrics["dataset"], metrics["epochs"]) == ("digits", 2)
    assert metrics["genotype"] == network.genotype.to_text()
    chosen = np.argmax(network(images.test_images, training=False), -1)
    assert metrics["test_accuracy"] == pytest.approx(
        np.mean(chosen == images.test_labels), abs=3e-3
    )
    description = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    assert description == {"class_names": list("0123456789")}
    assert genotype.load(folder / "genotype.json") == network.genotype
    assert (folder / "plots" / "cells.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("train_cnn_cifar10.flags", ("--batch_size=16", "--test_every_epoch")),
        ("train_cnn_imagenet.flags", ("--batch_size=4", "--seed=1")),
        ("train_cnn_imagenet.flags", ("--batch_size=4",)),
    ],
)
def test_the_published_trainings_run(name, settings, prepared, tmp_path, capsys):
    places = (f"--data_dir={prepared}", f"--workdir={tmp_path}")
    assert run(train_cnn, flagfile(name), *TINY_TRAINING, *settings, *places) == 0
    said = capsys.readouterr().out
    assert re.search(r"^test accuracy \d+\.\d\d %, [\d,]+ weights$", said, re.MULTILINE)
    row = rows(tmp_path)[0]
    assert ("val_accuracy" in row) == ("--test_every_epoch" in settings)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["test_accuracy"] <= 1 and math.isfinite(metrics["test_loss"])
    description = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert description["class_names"] == ["cat", "dog", "owl"]


def test_the_pipeline_leaves_its_results_in_the_work_folder_itself(piped):
    folder = piped.folder
    for stage, name in (
        ("search", "genotype.json"),
        ("search", "alphas.npz"),
        ("search", "plots/cells.svg"),
        ("search", "plots/alphas.png"),
        ("train", "metrics.json"),
        ("train", "model.keras"),
        ("train", "data.json"),
    ):
        assert (folder / name).read_bytes() == (folder / stage / name).read_bytes()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["genotype"] == genotype.load(folder / "genotype.json").to_text()
    assert [row["epoch"] for row in rows(folder / "search") + rows(folder / "train")] == [0, 0]


def test_the_saved_model_of_the_pipeline_has_the_accuracy_that_was_reported(piped):
    images = data.load_images("digits")
    loaded = tf.saved_model.load(str(piped.folder / "saved_model"))
    served = loaded.serve(images.test_images)
    metrics = json.loads((piped.folder / "metrics.json").read_text(encoding="utf-8"))
    accuracy = np.mean(served["class"].numpy() == images.test_labels)
    assert metrics["test_accuracy"] == pytest.approx(accuracy, abs=3e-3)


def test_the_pipeline_on_another_data_set(prepared, tmp_path, capsys):
    small = ("--search_order=first", "--search_batch_size=8", "--train_batch_size=16")
    places = (f"--data_dir={prepared}", f"--workdir={tmp_path}")
    name = flagfile("compare_orders_cifar10.flags")
    assert run(pipeline, name, *TINY_PIPELINE, *small, *places) == 0
    assert re.search(r"test accuracy \d+\.\d\d % with [\d,]+ weights", capsys.readouterr().out)
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    assert served.serve(np.zeros((2, 32, 32, 3), np.uint8))["logits"].shape == (2, 3)


def test_the_export_of_a_run_in_both_formats_agrees(piped, tmp_path, capsys):
    output = tmp_path / "deep" / "out"
    formats = "--formats=saved_model,tflite"
    assert run(export, f"--workdir={piped.folder / 'train'}", f"--output={output}", formats) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"written     {output / 'saved_model'}",
        f"written     {output / 'model.tflite'}",
    ]
    images = data.load_images("digits").test_images[:1]
    loaded = tf.saved_model.load(str(output / "saved_model"))
    expected = loaded.serve(images)
    interpreter = tf.lite.Interpreter(str(output / "model.tflite"))
    lite = interpreter.get_signature_runner("serving_default")
    floats = images.astype(np.float32)
    np.testing.assert_allclose(lite(images=floats)["logits"], expected["logits"], atol=1e-4)


def test_the_toy_problem_runs(tmp_path, capsys):
    output = tmp_path / "toy.png"
    name = flagfile("toy_bilevel.flags")
    assert run(toy_bilevel, name, "--steps=3", f"--output={output}") == 0
    assert f"picture     {output}" in capsys.readouterr().out
    assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("program", [search_cnn, train_cnn, pipeline, export, toy_bilevel])
def test_help_names_every_flag_and_the_command(program, capsys):
    values = flags.FlagValues()
    program.define_flags(values)
    assert run(program, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(program.__doc__.strip().splitlines()[0])
    assert f"python -m {program.__name__}" in said
    assert all(f"{name}:" in said for name in values)


def test_run_by_names_tests_of_this_file():
    assert set(RUN_BY.values()) <= set(globals())
