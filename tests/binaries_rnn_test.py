"""The programs for text and their flagfiles, cut down: what is written and said, and what not."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from darts_tf import data, genotype
from darts_tf.bin import compare_rnn, export, pipeline, search_rnn, train_rnn
from tests.programs import FLAGS, alphas, at_the_root, contents, finished, rows, run

__all__ = ["at_the_root"]  # pytest finds the fixture by its name here

RUN_BY = {
    "compare_rnn_ptb.flags": "test_a_comparison_chooses_rates_by_validation_and_goes_on",
    "quickstart_text.flags": "test_the_pipeline_leaves_its_results_in_the_work_folder_itself",
    "search_rnn_ptb_base.flags": "test_the_published_searches_run",
    "search_rnn_ptb_first_order.flags": "test_the_published_searches_run",
    "search_rnn_ptb_second_order.flags": "test_the_published_searches_run",
    "search_rnn_ptb_reduced.flags": "test_the_reduced_search_runs",
    "train_rnn_ptb.flags": "test_the_published_trainings_run",
    "train_rnn_wikitext2.flags": "test_the_published_trainings_run",
}
"""The test that runs each flagfile; `flagfiles_test` compares with the folder."""

SIZES = ("--nhid=4", "--batch_size=2", "--evaluation_batch_size=2", "--epochs=2")
TINY_SEARCH = (*SIZES, "--nodes=1", "--bptt=5")
TINY_TRAINING = (*SIZES, "--bptt=5")
TINY_PIPELINE = (
    *(f"--search_{s.removeprefix('--')}" for s in TINY_SEARCH),
    *(f"--train_{s.removeprefix('--')}" for s in TINY_TRAINING),
    "--train_test_batch_size=1",
    "--limit=120",
)
TEXTS = {"train": 30, "valid": 12, "test": 9}


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    """A corpus of few words."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    for part, lines in TEXTS.items():
        words = generator.choice(["the", "cat", "sat", "<unk>", "N"], (lines, 4))
        (folder / f"{part}.txt").write_text("".join(f" {' '.join(line)} \n" for line in words))
    return folder


def flagfile(name):
    assert name in RUN_BY
    return f"--flagfile={FLAGS / name}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "train"
    return finished(train_rnn, folder, *TINY_TRAINING, "--limit=120", "--nonmono=0")


@pytest.fixture(scope="module")
def piped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pipeline"
    return finished(pipeline, folder, flagfile("quickstart_text.flags"), *TINY_PIPELINE)


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_published_searches_run(order, corpus_folder, tmp_path, capsys):
    name = flagfile(f"search_rnn_ptb_{order}_order.flags")
    places = (f"--data_dir={corpus_folder}", f"--workdir={tmp_path}")
    assert run(search_rnn, name, *TINY_SEARCH, *places) == 0
    said = capsys.readouterr().out
    assert re.search(r"^search epoch 2/2 .* val_perplexity \d", said, re.MULTILINE)
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == [0, 1]
    for row in found:
        names = {"epoch", "learning_rate", "loss", "arch_loss", "perplexity"}
        assert set(row) == names | {"val_loss", "val_perplexity"}
        assert row["learning_rate"] == 20
        assert row["val_perplexity"] == pytest.approx(math.exp(row["val_loss"]))
    arrays = alphas(tmp_path)
    assert arrays["recurrent"].shape == (2, 1, 5)
    assert np.abs(arrays["recurrent"][1] - arrays["recurrent"][0]).max() > 0
    path = tmp_path / "genotype.json"
    assert genotype.load(path) == genotype.derive_recurrent(arrays["recurrent"][-1])
    provenance = genotype.load_provenance(path)
    given = {"program": "search_rnn", "order": {"first": "first", "second": "second_fd"}[order]}
    assert given.items() <= provenance.items()
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["alphas.png", "cells.svg"]


def test_the_published_quirks_run(tmp_path):
    quirks = ("--published_quirks", "--order=second_fd", "--limit=60", "--dropout=0.5")
    finished(search_rnn, tmp_path / "run", *TINY_SEARCH, *quirks)
    assert all(math.isfinite(row["arch_loss"]) for row in rows(tmp_path / "run"))


def test_the_reduced_search_runs(corpus_folder, tmp_path):
    places = (f"--data_dir={corpus_folder}", f"--workdir={tmp_path}")
    assert run(search_rnn, flagfile("search_rnn_ptb_reduced.flags"), *TINY_SEARCH, *places) == 0
    assert [row["epoch"] for row in rows(tmp_path)] == [0, 1]


def test_a_comparison_chooses_rates_by_validation_and_goes_on(corpus_folder, tmp_path, capsys):
    command = (
        *(flagfile("compare_rnn_ptb.flags"), *TINY_TRAINING, "--genotype=DARTS_V1"),
        *("--epochs=1", "--seeds=2", "--learning_rates=0.1,5,1e30", "--test_batch_size=2"),
        *(f"--data_dir={corpus_folder}", f"--workdir={tmp_path}"),
    )
    assert run(compare_rnn, *command) == 0
    capsys.readouterr()
    path = tmp_path / "comparison.json"
    cells = {cell["kind"]: cell for cell in json.loads(path.read_text())["cells"]}
    assert list(cells) == ["derived", "random", "lstm"]
    for kind, cell in cells.items():
        figures = {
            (rate, seed): json.loads(
                (tmp_path / f"{kind}_rate{rate}_seed{seed}" / "metrics.json").read_text()
            )
            for rate, seed in (("0.1", 0), ("5", 0), (f"{cell['learning_rate']:g}", 1))
        }
        rate = min(("0.1", "5"), key=lambda rate: figures[rate, 0]["valid_perplexity"])
        assert cell["learning_rate"] == float(rate)
        assert cell["rates_tried"]["1e+30"] == "diverged"
        for part in ("valid", "test"):
            found = [figures[rate, seed][f"{part}_perplexity"] for seed in (0, 1)]
            assert cell[f"{part}_perplexity"]["all"] == found
            assert cell[f"{part}_perplexity"]["mean"] == pytest.approx(np.mean(found), abs=0.01)
            deviation = np.std(found, ddof=1)
            assert cell[f"{part}_perplexity"]["deviation"] == pytest.approx(deviation, abs=0.01)
    # 6 words, 4 wide: 6 4 + 6 + 8 8 + 8 (4 8); LSTMs 5, 6 and 7 wide have 256, 354 and 468.
    assert [cell["weights"] for cell in cells.values()] == [350, 350, 354]
    assert cells["derived"]["cells"] == [genotype.zoo.genotype("DARTS_V1", "rnn").to_text()] * 2
    drawn = [genotype.random_recurrent(seed).to_text() for seed in (0, 1)]
    assert cells["random"]["cells"] == drawn
    # A training that is missing is made up for, the others are only read.
    written = path.read_bytes()
    (tmp_path / "lstm_rate5_seed0" / "metrics.json").unlink()
    before = contents(tmp_path)
    assert run(compare_rnn, *command) == 0
    said = capsys.readouterr().out
    assert "lstm: learning rate 5, seed 0" in said and "seed 1" not in said
    assert path.read_bytes() == written
    changed = {name for name, held in contents(tmp_path).items() if before.get(name) != held}
    assert all("lstm_rate5_seed0" in name or "1e+30" in name for name in changed)
    line = rf"derived +350 +{cells['derived']['learning_rate']:g}  [\d.]+ \+- [\d.]+ +[\d.]+ \+-"
    assert re.search(line, said)


@pytest.mark.parametrize("name", ["train_rnn_ptb.flags", "train_rnn_wikitext2.flags"])
def test_the_published_trainings_run(name, corpus_folder, tmp_path, capsys):
    places = (f"--data_dir={corpus_folder}", f"--workdir={tmp_path}")
    assert run(train_rnn, flagfile(name), *TINY_TRAINING, *places) == 0
    said = capsys.readouterr().out
    figures = (
        r"^test perplexity \d+\.\d\d \(unigrams \d+\.\d\d; \d+\.\d % of the words are <unk>\), "
    )
    figures += r"[\d,]+ weights$"
    assert re.search(figures, said, re.MULTILINE)


def test_a_training_writes_its_figures_and_the_best_model_with_its_words(trained):
    import keras

    from darts_tf.networks import language  # noqa: F401  (registers the class)
    from darts_tf.training.language import stream_loss

    folder = trained.folder
    found = rows(folder)
    assert [row["epoch"] for row in found] == [0, 1]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    best = min(found, key=lambda row: row["val_loss"])
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["valid_perplexity"] == pytest.approx(best["val_perplexity"], rel=1e-4)
    words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))["words"]
    corpus = data.builtin_corpus()
    assert words == list(corpus.vocabulary.words)
    network = keras.models.load_model(folder / "model.keras", compile=False)
    assert network.genotype == genotype.zoo.genotype("DARTS_V2", "rnn")
    assert metrics["weights"] == network.count_weights()
    loss = stream_loss(network, data.evaluation_windows(corpus.test[:120], 1, 5))
    assert metrics["test_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


def test_the_same_command_again_says_the_same_without_training_again(trained, monkeypatch, capsys):
    before = contents(trained.folder)

    def fit(*_, **__):
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr("keras.Model.fit", fit)
    assert run(train_rnn, *trained.command) == 0
    assert "test perplexity" in capsys.readouterr().out
    after = contents(trained.folder)
    assert after["metrics.json"] == before["metrics.json"]
    assert after["metrics.jsonl"] == before["metrics.jsonl"]


def test_the_pipeline_leaves_its_results_in_the_work_folder_itself(piped):
    folder = piped.folder
    for stage, name in (
        ("search", "genotype.json"),
        ("search", "alphas.npz"),
        ("search", "plots/cells.svg"),
        ("train", "metrics.json"),
        ("train", "model.keras"),
        ("train", "vocabulary.json"),
    ):
        assert (folder / name).read_bytes() == (folder / stage / name).read_bytes()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["genotype"] == genotype.load(folder / "genotype.json").to_text()
    assert metrics["unigram_test_perplexity"] > 1
    assert run(pipeline, *piped.command) == 0


def test_the_saved_model_scores_the_test_part_as_reported(piped):
    corpus = data.builtin_corpus()
    metrics = json.loads((piped.folder / "metrics.json").read_text(encoding="utf-8"))
    served = tf.saved_model.load(str(piped.folder / "saved_model"))
    words = corpus.test[:120]
    state = served.initial_state(1)["state"]
    found = served.serve(words[None, :-1], state)["log_probabilities"].numpy()[0]
    loss = -found[np.arange(119), words[1:]].mean()
    assert metrics["test_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    # The same from text, with an unknown word, beside a row of another length.
    text = " ".join(corpus.vocabulary.decode(words[:6])) + " unheardofword"
    scored = served.serve_text([text, "the"], served.initial_state(2)["state"])
    unknown = corpus.vocabulary.encode(["<unk>"])[0]
    assert scored["tokens"].numpy()[0].tolist() == [*words[:6], unknown]
    assert scored["lengths"].numpy().tolist() == [7, 1]
    np.testing.assert_allclose(scored["log_probabilities"][0, :6], found[:6], atol=1e-5)
    alone = served.serve_text(["the"], state)
    np.testing.assert_allclose(scored["state"][1], alone["state"][0], atol=1e-6)


def test_the_saved_model_loads_without_this_package(piped, tmp_path):
    code = (
        "import sys; sys.modules['darts_tf'] = None\n"
        "import tensorflow as tf\n"
        f"served = tf.saved_model.load({str(piped.folder / 'saved_model')!r})\n"
        "out = served.signatures['serve_text'](text=tf.constant(['the cat']),\n"
        "    state=served.initial_state(1)['state'])\n"
        "print(out['log_probabilities'].shape[1], float(tf.reduce_sum(tf.exp(\n"
        "    out['log_probabilities'][0, 1]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    time, total = done.stdout.split()
    assert time == "2" and float(total) == pytest.approx(1, abs=1e-4)


def test_the_export_refuses_what_it_cannot_do(trained, tmp_path, capsys):
    output = f"--output={tmp_path / 'out'}"
    assert run(export, f"--workdir={trained.folder}", output, "--formats=tflite") == 1
    assert "exported as saved_model only" in capsys.readouterr().err
    assert run(export, f"--workdir={trained.folder}", output) == 0


def refused(capsys, program, folder, *arguments):
    """The one line with which a program refuses, having written nothing."""
    assert run(program, f"--workdir={folder}", *arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert not folder.exists()
    return said.err


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        (search_rnn, "--order=third", "Unknown --order 'third'. Known: first, second_exact"),
        (search_rnn, "--order=first --published_quirks", "need --order=second_fd. Received: --or"),
        (search_rnn, "--dropout=1", r"--dropout must be in \[0, 0.999999\]. Received: --dropout=1"),
        (search_rnn, "--nhid=0", "--nhid must be at least 1. Received: --nhid=0."),
        (search_rnn, "--bptt=1", "--bptt must be at least 2. Received: --bptt=1."),
        (search_rnn, "--beta=nan", "--beta must be at least 0. Received: --beta=nan."),
        (train_rnn, "--test_batch_size=0", "--test_batch_size must be at least 1. Received"),
        (train_rnn, "--genotype=DARTS_V3", "Unknown genotype 'DARTS_V3'. Known: .*ENAS"),
        (compare_rnn, "--learning_rates=1,x", "must be numbers with commas between .*rates=1,x"),
        (compare_rnn, "--learning_rates=-1", "--learning_rate must be at least 0. Received"),
        (compare_rnn, "--seeds=0", "0 is not a positive integer"),
        (search_rnn, "--dataset=ptb", "Unknown text 'ptb'. Known: python_topics, text."),
        (search_rnn, "--dataset=text", "--dataset=text needs --data_dir, the folder that holds"),
        (train_rnn, "--dataset=text --data_dir=nowhere", "There is no folder nowhere"),
        (search_rnn, "--limit=100", "A batch of 256 rows needs at least 768 words; the training"),
        (train_rnn, "--limit=250 --batch_size=4 --test_batch_size=90", "the part test has 250"),
        (pipeline, "--dataset=python_topics --search_nhid=0", "--search_nhid must be at least 1"),
        (pipeline, "--dataset=python_topics --train_nonmono=-1", "--train_nonmono must be at le"),
        (pipeline, "--dataset=text", "--dataset=text needs --data_dir"),
        (search_rnn, "--min_count=0", "flag --min_count=0: 0 is not a positive integer"),
        (search_rnn, "--vocabulary=some", "value should be one of <all|train>"),
    ],
)
def test_wrong_flags_are_refused_and_leave_no_work_folder(
    program, arguments, words, capsys, tmp_path
):
    assert re.search(words, refused(capsys, program, tmp_path / "run", *arguments.split()))


def test_texts_that_cannot_be_used_are_refused(corpus_folder, capsys, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for part in TEXTS:
        (folder / f"{part}.txt").write_bytes((corpus_folder / f"{part}.txt").read_bytes())
    given = (search_rnn, tmp_path / "run", "--dataset=text", f"--data_dir={folder}")
    (folder / "test.txt").write_bytes(b"good\nb\xe4d\n")
    assert "test.txt is not UTF-8 text: line 2 holds the byte 0xe4" in refused(capsys, *given)
    (folder / "test.txt").write_text("")
    assert "test.txt is empty: it holds no word" in refused(capsys, *given)
    (folder / "test.txt").unlink()
    assert f"The folder {folder} has no test.txt" in refused(capsys, *given)


def test_a_folder_with_another_run_is_refused(trained, capsys):
    assert run(train_rnn, *trained.command, "--seed=9") == 1
    assert "holds a run with other flags: --seed was 1267, now 9." in capsys.readouterr().err


def test_run_by_names_tests_of_this_file():
    assert set(RUN_BY.values()) <= set(globals())
