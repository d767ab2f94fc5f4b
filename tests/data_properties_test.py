"""Texts, vocabularies and prepared data sets, damaged: read as they say, or refused."""

import json
import os
import pathlib
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_tf.data import load_images, prepared
from darts_tf.data import text as texts
from darts_tf.data.text import END, UNKNOWN, Vocabulary, load_corpus, read_words
from darts_tf.errors import InputError
from tests.data_images_test import part, store
from tests.mutations import mutated, mutated_json, repeatable

TEXT = (
    b"the cat sat\non the <unk> mat\n\nN dollars\n",
    "\ufeffgrün\u2028two words\r\nlast line without an end".encode(),
)


@repeatable(2000)
@given(content=mutated(TEXT, (b"<eos>", b"<unk>", b" <eos>\n", b"\r", b"\n\n", b"\t", b"w" * 1001)))
def test_a_damaged_text_is_read_word_by_word_or_refused(content, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    try:
        words = read_words(path)
    except InputError as error:
        assert str(path) in str(error) and len(str(error)) < 500
        return
    # Python's own universal line ends; what is white space behind the last one is no line.
    with open(path, encoding="utf-8-sig") as file:
        lines = [line for line in file if line.endswith("\n") or line.strip()]
    # One <eos> at the end of each line, and before it the words of the line.
    expected = []
    for line in lines:
        expected += re.sub(r"(?<!\S)<eos>\s*\Z", "", line).split() + [END]
    assert words == expected
    assert b"\0" not in content and max(map(len, words)) <= texts.LONGEST_WORD


lines_of_words = st.lists(
    st.lists(st.sampled_from(["a", "b", "ü", UNKNOWN, "<s>", "1.5", "'"]), max_size=5), min_size=1
)


@repeatable(300)
@given(
    lines=st.tuples(lines_of_words, lines_of_words, lines_of_words),
    kind=st.sampled_from(texts.VOCABULARIES),
    min_count=st.integers(1, 4),
)
def test_any_corpus_decodes_to_what_was_written(lines, kind, min_count, tmp_path):
    for name, of_part in zip(texts.PARTS, lines, strict=True):
        content = "".join(" ".join(line) + "\n" for line in of_part)
        (tmp_path / f"{name}.txt").write_text(content)
    try:
        corpus = load_corpus(tmp_path, kind, min_count)
    except InputError as error:
        marked = [[line[-1] for line in of_part if line] for of_part in lines]
        assert ("holds no word" in str(error) and not all(map(any, lines))) or (
            "end in '<s>'" in str(error) and any(set(ends) == {"<s>"} for ends in marked)
        )
        return
    train = [word for line in lines[0] for word in [*line, END]]
    for name, of_part in zip(texts.PARTS, lines, strict=True):
        written = [word for line in of_part for word in [*line, END]]
        for word, read in zip(
            written, corpus.vocabulary.decode(getattr(corpus, name)), strict=True
        ):
            known = word in (END, UNKNOWN) or train.count(word) >= min_count
            known |= kind == "all" and word not in train
            assert read == (word if known else UNKNOWN)


@repeatable(500)
@given(st.lists(st.text(min_size=1, max_size=4) | st.sampled_from([END, UNKNOWN]), max_size=6))
def test_a_vocabulary_keeps_its_words_or_is_refused(words):
    try:
        vocabulary = Vocabulary(words)
    except InputError as error:
        assert len(set(words)) < len(words) or any(w.split() != [w] for w in words), error
        return
    assert vocabulary.words[: len(words)] == tuple(words)
    assert {END, UNKNOWN} <= set(vocabulary.words) and len(vocabulary) <= len(words) + 2
    numbers = vocabulary.encode(vocabulary.words)
    assert numbers.tolist() == list(range(len(vocabulary)))
    assert vocabulary.decode(numbers) == list(vocabulary.words)


def test_halves_of_characters_are_no_words():
    with pytest.raises(InputError, match=r"must be UTF-8 text. Received: '\\ud800x' in a vocab"):
        Vocabulary(["a", "\ud800x"])


def test_utf_16_without_a_mark_is_not_taken_for_words(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("one\ntwo words\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="is not UTF-8 text: line 1 holds the byte 0x00, as UTF-"):
        read_words(path)


def test_what_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "LARGEST_TEXT", 100)
    path = tmp_path / "train.txt"
    path.write_bytes(b"a " * 51)
    with pytest.raises(InputError, match="is larger than 100 bytes. Is this another kind of file"):
        read_words(path)
    path.write_bytes(b"a\nb " + b"c" * 90)
    assert len(read_words(path)) == 5
    monkeypatch.setattr(texts, "LONGEST_WORD", 80)
    with pytest.raises(InputError, match="a word of more than 80 characters in line 2. Words are"):
        read_words(path)


# -------------------------------------------------------------------------------- prepared data


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small prepared data set: its folder, and its files by name."""
    root = tmp_path_factory.mktemp("whole")
    store(str(root), "small", {"train": part(6, 1, side=4), "test": part(3, 2, side=4)}, (4, 4, 3))
    record = next(root.rglob("dataset_info.json"))
    return record.parent, {path.name: path.read_bytes() for path in record.parent.iterdir()}


def test_damaged_data_sets_are_read_as_they_are_or_refused(whole, tmp_path):
    folder, files = whole
    expected = load_images("small", folder.parents[1])
    target = tmp_path / "small" / folder.name
    target.mkdir(parents=True)
    records = tuple(name for name in sorted(files) if name.endswith((".json", ".txt")))
    examples = tuple(name for name in sorted(files) if "tfrecord" in name)
    assert len(records) >= 3 and len(examples) == 2

    @repeatable(250)
    @given(st.data())
    def check(data):
        name = data.draw(st.sampled_from((*records, *examples)))
        damage = mutated((files[name],), (b"6", b"1000000000000", b"float32", b"label"))
        if name.endswith(".json"):
            damage |= mutated_json((files[name],), ("int64", [4, 4, 3], "1000000000000", ["0"]))
        content = data.draw(damage)
        for other, whole_content in files.items():
            (target / other).write_bytes(content if other == name else whole_content)
        try:
            found = load_images("small", tmp_path)
        except InputError as error:
            assert len(str(error)) < 2500
            return
        # No example is made up: each is one of those that were stored.
        known = {image.tobytes() for image in expected.train_images}
        known |= {image.tobytes() for image in expected.test_images}
        for images, labels in (
            (found.train_images, found.train_labels),
            (found.test_images, found.test_labels),
        ):
            assert len(images) == len(labels) and images.dtype == np.uint8
            assert {image.tobytes() for image in images} <= known
            assert 0 <= labels.min() and labels.max() < found.num_classes

    check()


EVIL = "darts_tf_payload.Features"


def _top(features, record):
    features["pythonClassName"] = EVIL


def _snake_case(features, record):
    del features["pythonClassName"]
    features["python_class_name"] = EVIL


def _older_key(features, record):
    features["type"], features["content"] = EVIL, {}


def _label(features, record):
    features["featuresDict"]["features"]["label"]["pythonClassName"] = EVIL


def _older_label(features, record):
    features["featuresDict"]["features"]["label"] = {"type": EVIL, "content": {}}


def _unused_feature(features, record):
    features["featuresDict"]["features"]["more"] = {"python_class_name": EVIL, "text": {}}


def _text_in_text(features, record):
    inner = json.dumps({"features": {"x": {"pythonClassName": EVIL, "text": {}}}})
    content = {"type": features["pythonClassName"], "content": inner}
    features["featuresDict"]["features"]["label"] = {
        **content,
        "proto_cls": "tensorflow_datasets.FeaturesDict",
    }


def _json_feature(features, record):
    inner = {"x": {"type": EVIL, "content": {}}}
    features["featuresDict"]["features"]["label"] = {
        "pythonClassName": features["pythonClassName"],
        "jsonFeature": {"json": json.dumps(inner)},
    }


def _in_the_record(features, record):
    record["features"] = {"pythonClassName": EVIL, "text": {}}


def _module_of_the_builder(features, record):
    record["moduleName"] = EVIL


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (_top, False),
        (_snake_case, False),
        (_older_key, False),
        (_label, False),
        (_older_label, False),
        (_text_in_text, False),
        (_json_feature, False),
        (_unused_feature, True),
        (_in_the_record, True),
        (_module_of_the_builder, True),
    ],
)
def test_nothing_that_a_data_set_names_is_imported(whole, tmp_path, monkeypatch, change, read):
    folder, files = whole
    target = tmp_path / "small" / folder.name
    target.mkdir(parents=True)
    features, record = (json.loads(files[f"{x}.json"]) for x in ("features", "dataset_info"))
    change(features, record)
    for name, content in files.items():
        (target / name).write_bytes(content)
    (target / "features.json").write_text(json.dumps(features))
    (target / "dataset_info.json").write_text(json.dumps(record))
    (tmp_path / "darts_tf_payload.py").write_text("import os\nos.mkdir('made')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("darts_tf_payload", None)  # of a case that failed
    if read:
        assert len(load_images("small", tmp_path).train_images) == 6
    else:
        with pytest.raises(InputError):
            load_images("small", tmp_path)
    assert "darts_tf_payload" not in sys.modules and not (tmp_path / "made").exists()


@pytest.mark.parametrize("field", ["filepathTemplate", "name"])
def test_files_outside_the_folder_of_a_data_set_are_not_read(whole, tmp_path, field):
    folder, files = whole
    target = tmp_path / "small" / folder.name
    target.mkdir(parents=True)
    for name, content in files.items():
        (target / name).write_bytes(content)
    record = json.loads(files["dataset_info.json"])
    record["splits"][0][field] = f"../{folder.name}/train"
    (target / "dataset_info.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="its record names files outside its folder: '../"):
        load_images("small", tmp_path)


@repeatable(400)
@given(
    name=mutated(
        (b"small", b"small:1.0.0", b"cifar10:3.0.2", b"a/b:1.0.0"),
        (b"*", b"..", b"/", b"?", b"[s]"),
    )
)
def test_a_damaged_name_of_a_data_set_is_not_taken_for_another(name, whole):
    folder, _ = whole
    name = os.fsdecode(name)
    try:
        prepared._version_folder(name, folder.parents[1])
    except InputError as error:
        assert len(str(error)) < 1500
    else:
        assert name in ("small", f"small:{folder.name}")


@pytest.mark.parametrize("folder", ["[", "s3://bucket/x", "\ud800", "x" * 5000, "/proc/self/mem"])
def test_a_folder_that_cannot_be_looked_into_is_refused(folder):
    with pytest.raises(InputError):
        load_images("small", pathlib.PurePosixPath(folder) if "/" not in folder else folder)
