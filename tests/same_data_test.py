"""A run resumes on its own data only: fingerprints, and what each program says of other data."""

import json
import shutil

import numpy as np
import pytest

from darts_tf.bin import (
    compare_rnn,
    pipeline,
    same_data,
    search_cnn,
    search_rnn,
    train_cnn,
    train_rnn,
)
from darts_tf.data import ImageData, fingerprint, load_images
from darts_tf.data.text import corpus_of
from darts_tf.errors import InputError
from darts_tf.training.distribution import Workers
from tests.data_images_test import pictures, store
from tests.programs import contents, run

LABELS = np.arange(12) % 3


def image_set(**changes):
    parts = {
        name: value
        for seed, part in enumerate(("train", "validation", "test"))
        for name, value in (
            (f"{part}_images", pictures(12, seed=seed)),
            (f"{part}_labels", LABELS.astype(np.int32)),
        )
    }
    names = {"name": "mine", "class_names": ("cat", "dog", "owl")}
    settings = {**names, "normalization": None, **parts}
    return ImageData(**(settings | changes))


ALL = ("train", "validation", "test")


def of(**changes):
    return fingerprint.of_images(image_set(**changes), ALL)


def one_pixel():
    images = pictures(12, seed=2)
    images[11, 7, 7, 2] ^= 1
    return images


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"name": "other", "normalization": 3}, []),  # the flags have the name
        (
            {"train_images": pictures(13), "train_labels": np.zeros(13, np.int32)},
            ["13 images in the training part, was 12"],
        ),
        ({"test_images": one_pixel()}, ["other pixels in the test part"]),
        ({"train_labels": (LABELS[::-1]).astype(np.int32)}, ["other labels in the training part"]),
        ({"train_images": pictures(12)[::-1]}, ["other pixels in the training part"]),
        ({"train_images": pictures(12).reshape(12, 4, 16, 3)}, ["other pixels in the training"]),
        ({"class_names": ("dog", "cat", "owl")}, ["other class names in the data set"]),
        ({"class_names": ("cat", "do", "gowl")}, ["other class names in the data set"]),
        (
            {"validation_images": None, "validation_labels": None},
            ["no images in the validation part, was 12"],
        ),
    ],
)
def test_images_that_differ_are_told_by_what_differs(changes, words):
    saved = json.loads(json.dumps(of()))
    found = fingerprint.differences(saved, of(**changes))
    assert len(found) == len(words)
    assert all(line.startswith(start) for line, start in zip(found, words, strict=True))


def test_parts_that_a_run_does_not_use_do_not_count():
    one, other = image_set(), image_set(test_images=one_pixel())
    parts = ("train", "validation")
    assert fingerprint.of_images(one, parts) == fingerprint.of_images(other, parts)


def test_the_fingerprint_of_the_digits_is_this_one_everywhere():
    """On other machines and in other versions: else a run could not be resumed there."""
    found = fingerprint.of_images(load_images("digits"), ("train",))
    assert found["training part"]["images"] == 1077
    assert found["training part"]["pixels"] == "8540b4e80154a37b574819af170071e0"
    assert found["training part"]["labels"] == "0aa3504ca3b7564fc4824fac1948d042"


TEXT = ("a b c a".split(), "b c".split(), "c a".split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT, []),
        ((["a", "b", "a", "c"], *TEXT[1:]), ["other text in the training part"]),
        ((*TEXT[:2], ["c", "a", "a"]), ["3 words in the test part, was 2"]),
        (
            [["z" if word == "a" else word for word in part] for part in TEXT],
            ["other spellings in the vocabulary"],
        ),
        (
            (TEXT[0], ["b", "new"], TEXT[2]),
            ["other text in the validation part", "6 words in the vocabulary, was 5"],
        ),
    ],
)
def test_texts_that_differ_are_told_by_what_differs(text, words):
    before, now = (
        fingerprint.of_corpus(corpus_of("mine", *t), ("train", "valid", "test"))
        for t in (TEXT, text)
    )
    found = fingerprint.differences(before, now)
    assert len(found) == len(words)
    for start in words:
        assert any(line.startswith(start) for line in found)


def test_a_streamed_set_is_told_by_its_files_and_first_images(tmp_path):
    def stored(seed, labels=LABELS, names=("train", "validation")):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        parts = {name: (pictures(12, seed=seed), labels) for name in names}
        store(str(tmp_path), "mine", parts)
        return fingerprint.of_prepared("mine", tmp_path)

    first = stored(1)
    assert first.keys() == {"data set", "training part", "validation part"}
    assert fingerprint.differences(first, stored(1)) == []
    assert fingerprint.differences(first, stored(1, LABELS[::-1])) == [
        "other first images in the training part",
        "other first images in the validation part",
    ]
    shard = next((tmp_path / "mine").rglob("*-train.*"))
    shard.write_bytes(shard.read_bytes() + b"more")
    again = fingerprint.of_prepared("mine", tmp_path)
    assert "other files in the training part" in fingerprint.differences(first, again)


@pytest.mark.parametrize(
    "saved",
    [{}, {"training part": 3}, {"training part": {"images": None}, "x": [1]}, {"a": {"b": 1}}],
)
def test_a_record_of_anything_else_differs(saved):
    assert fingerprint.differences(saved, of())


class Reached(Exception):
    """A program would begin now."""


IMAGE_FLAGS = ("--dataset=mine", "--batch_size=4", "--limit=12", "--layers=1")
TEXT_FLAGS = ("--dataset=text", "--batch_size=2", "--evaluation_batch_size=2")
PROGRAMS = {
    "search_cnn": (search_cnn, IMAGE_FLAGS),
    "train_cnn": (train_cnn, (*IMAGE_FLAGS, "--nocutout")),
    "search_rnn": (search_rnn, TEXT_FLAGS),
    "train_rnn": (train_rnn, TEXT_FLAGS),
    "compare_rnn": (compare_rnn, TEXT_FLAGS),
    "pipeline": (
        pipeline,
        (
            *(
                "--dataset=mine",
                "--search_batch_size=4",
                "--train_batch_size=4",
                "--notrain_cutout",
            ),
            *("--search_layers=1", "--train_layers=1", "--notrain_cutout"),
        ),
    ),
    "pipeline of text": (
        pipeline,
        (
            "--dataset=text",
            *(f"--{s}_{f[2:]}" for s in ("search", "train") for f in TEXT_FLAGS[1:]),
        ),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders with an image set and a text of the same names and sizes."""
    roots = []
    for name, labels, word in (("one", LABELS, "a"), ("other", (LABELS + 1) % 3, "d")):
        root = tmp_path_factory.mktemp(name)
        store(str(root), "mine", {part: (pictures(12), labels) for part in ("train", "test")})
        for part in ("train", "valid", "test"):
            (root / f"{part}.txt").write_text(f"{word} b c b\n" * 20)
        roots.append(root)
    return roots


@pytest.fixture
def begins(monkeypatch):
    """Has a program that would begin raise `Reached`."""

    def reached(*arguments, **options):
        raise Reached

    for program in (search_cnn, search_rnn):
        monkeypatch.setattr(program, "search", reached)
    for program in (train_cnn, train_rnn):
        monkeypatch.setattr(program, "train", reached)
    monkeypatch.setattr(compare_rnn, "compare", reached)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_refuses_other_data_in_the_work_folder_of_a_run(
    name, folders, begins, tmp_path, capsys
):
    program, flags = PROGRAMS[name]

    def start(data):
        return run(program, *flags, f"--data_dir={data}", f"--workdir={tmp_path}")

    for _ in range(2):
        with pytest.raises(Reached):
            start(folders[0])
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n')
    before = contents(tmp_path)
    assert same_data.FILE in before
    capsys.readouterr()
    assert start(folders[1]) == 1
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and f"The work folder {tmp_path} holds a run on other data:" in said
    )
    if "text" in flags[0]:
        assert "other spellings in the vocabulary" in said
    else:
        assert "other labels in the training part" in said
        assert ("in the test part" in said) == (name != "search_cnn")
    assert contents(tmp_path) == before
    with pytest.raises(Reached):
        start(folders[0])


def test_a_run_of_an_older_version_resumes_with_a_note(folders, begins, tmp_path, capsys):
    """It had neither a fingerprint nor --split, and took images in stored order."""
    command = (*IMAGE_FLAGS, f"--data_dir={folders[0]}", f"--workdir={tmp_path}")
    with pytest.raises(Reached):
        run(search_cnn, *command, "--split=published")
    (tmp_path / same_data.FILE).unlink()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "000001-00000000.checkpoint").write_bytes(b"")
    path = tmp_path / "flags.txt"
    path.write_text(path.read_text().replace("--split=published\n", ""))
    capsys.readouterr()
    with pytest.raises(Reached):
        run(search_cnn, *command)
    assert "data        was not recorded when this run began, by an older version (no" in (
        capsys.readouterr().out
    )
    assert "--split=published\n" in path.read_text() and (tmp_path / same_data.FILE).exists()
    with pytest.raises(Reached):
        run(search_cnn, *command)
    assert capsys.readouterr().out == ""
    assert run(search_cnn, *command, "--split=stratified") == 1
    assert "--split was published, now stratified" in capsys.readouterr().err


def test_a_damaged_fingerprint_is_named(folders, begins, tmp_path, capsys):
    command = (*IMAGE_FLAGS, f"--data_dir={folders[0]}", f"--workdir={tmp_path}")
    with pytest.raises(Reached):
        run(search_cnn, *command)
    (tmp_path / same_data.FILE).write_text('{"training part": ')
    capsys.readouterr()
    assert run(search_cnn, *command) == 1
    said = capsys.readouterr().err
    assert f"Fingerprint of the data {tmp_path / same_data.FILE} is not valid JSON" in said
    assert "Put it back, or remove it to resume without this check." in said


def workers(digests):
    """This process as one of several workers with two devices each, of whose data is known."""
    of_several = object.__new__(Workers)
    of_several.several = True
    of_several._names = [f"worker {index}" for index in range(len(digests))]
    of_several._all = lambda own: np.repeat(np.array(digests, np.int64), 2)
    return of_several


def test_workers_with_other_data_are_named():
    assert workers([5, 5, 5]).check_same_data(5) is None
    with pytest.raises(InputError, match="different data: worker 1, worker 3 other than worker 0."):
        workers([5, 6, 5, 2**55]).check_same_data(5)
