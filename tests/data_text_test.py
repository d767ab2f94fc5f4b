"""Corpora and their vocabulary."""

import math
import os
import pathlib

import numpy as np
import pytest

from darts_tf.data.text import Vocabulary, builtin_corpus, corpus_of, load_corpus, read_words
from darts_tf.errors import InputError

DATA = pathlib.Path(
    os.environ.get(
        "DARTS_TF_DATA", pathlib.Path(__file__).resolve().parents[1].parent / "shared/data"
    )
)
PARTS = {"train": "the cat sat\n the  dog\n", "valid": "the cow\n", "test": "a dog sat\n"}


@pytest.fixture
def folder(tmp_path):
    for part, text in PARTS.items():
        (tmp_path / f"{part}.txt").write_text(text)
    return tmp_path


def test_a_vocabulary_numbers_its_words_and_knows_the_unknown():
    vocabulary = Vocabulary(["b", "<unk>", "a"])
    assert vocabulary.words == ("b", "<unk>", "a", "<eos>")
    assert vocabulary.encode(["a", "z", "<eos>"]).tolist() == [2, 1, 3]
    assert vocabulary.decode([0, 3]) == ["b", "<eos>"]
    assert len(vocabulary) == 4 and "a" in vocabulary and "z" not in vocabulary
    with pytest.raises(InputError, match="holds 'a' twice"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(InputError, match="without white space. Received: 'a b'"):
        Vocabulary(["a b"])


def test_a_folder_is_read_with_the_words_of_all_parts_in_order_of_appearance(folder):
    corpus = load_corpus(folder)
    assert corpus.vocabulary.words == ("the", "cat", "sat", "<eos>", "dog", "cow", "a", "<unk>")
    assert corpus.train.tolist() == [0, 1, 2, 3, 0, 4, 3]
    assert corpus.valid.tolist() == [0, 5, 3]
    assert corpus.test.tolist() == [6, 4, 2, 3]
    assert corpus.train.dtype == np.int32 and corpus.name == folder.name


def test_a_vocabulary_of_the_training_part_makes_other_and_rare_words_unknown(folder):
    corpus = load_corpus(folder, vocabulary="train")
    assert corpus.vocabulary.decode(corpus.valid) == ["the", "<unk>", "<eos>"]
    corpus = load_corpus(folder, vocabulary="train", min_count=2)
    assert corpus.vocabulary.words == ("the", "<eos>", "<unk>")
    assert corpus.vocabulary.decode(corpus.train[:4]) == ["the", "<unk>", "<unk>", "<eos>"]


def test_the_perplexity_of_unigrams_counts_every_word_once_more():
    corpus = corpus_of("x", ["a", "a", "b"], ["b"], ["a", "b"])
    # Vocabulary a, b, <eos>, <unk>: counts + 1 are 3, 2, 1, 1 of 7.
    expected = math.exp(-(math.log(3 / 7) + math.log(2 / 7)) / 2)
    assert corpus.unigram_perplexity("test") == pytest.approx(expected)
    with pytest.raises(InputError, match="Unknown part of a corpus 'dev'. Known: test, train, val"):
        corpus.unigram_perplexity("dev")


def test_lines_end_only_where_a_newline_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028two\r\n\nthree".encode())
    assert read_words(path) == ["one", "two", "<eos>", "<eos>", "three", "<eos>"]


def test_files_that_cannot_be_used_are_named(folder):
    (folder / "valid.txt").write_bytes(b"fine\nso\nb\xe4d\n")
    with pytest.raises(InputError, match=r"valid.txt is not UTF-8 text: line 3 holds .* 0xe4"):
        load_corpus(folder)
    (folder / "valid.txt").write_text("\n \n")
    with pytest.raises(InputError, match="valid.txt is empty: it holds no word"):
        load_corpus(folder)
    (folder / "valid.txt").write_text("")
    with pytest.raises(InputError, match="valid.txt is empty: it holds no word"):
        load_corpus(folder)
    (folder / "valid.txt").unlink()
    (folder / "test.txt").unlink()
    with pytest.raises(InputError, match="has no valid.txt and no test.txt. A corpus consists of"):
        load_corpus(folder)
    with pytest.raises(InputError, match="There is no folder .*nowhere. Name one that holds train"):
        load_corpus(folder / "nowhere")
    with pytest.raises(InputError, match="Unknown vocabulary 'some'. Known: all, train"):
        corpus_of("x", ["a"], ["a"], ["a"], "some")
    with pytest.raises(InputError, match="min_count must be a whole number of 1 or more. Rec.*: 0"):
        corpus_of("x", ["a"], ["a"], ["a"], "all", 0)


def test_the_built_in_corpus_has_three_parts_of_english():
    corpus = builtin_corpus()
    for part in ("train", "valid", "test"):
        assert len(getattr(corpus, part)) > 5000
    assert len(corpus.train) > 4 * len(corpus.test)
    assert 1000 < len(corpus.vocabulary) < 4000
    unknown = corpus.vocabulary.encode(["<unk>"])[0]
    assert (corpus.test == unknown).mean() < 0.12
    assert 50 < corpus.unigram_perplexity() < 1000
    again = builtin_corpus()
    assert again.vocabulary.words == corpus.vocabulary.words
    np.testing.assert_array_equal(again.train, corpus.train)


def test_the_built_in_corpus_is_split_by_topic_without_repeats(monkeypatch):
    from pydoc_data import topics

    made = {f"topic{n}": f"Shared text.\n\nWord word {n}, {n}.\n***********\n" for n in range(10)}
    monkeypatch.setattr(topics, "topics", made)
    corpus = builtin_corpus()
    texts = {p: " ".join(corpus.vocabulary.decode(getattr(corpus, p))) for p in PARTS}
    assert texts["train"].startswith("<unk> <unk> . <eos> word word 0 , 0 . <eos> word word 1 , 1")
    assert texts["valid"] == "word word <unk> , <unk> . <eos>"
    assert texts["test"] == "word word <unk> , <unk> . <eos>"
    assert "*" not in corpus.vocabulary


@pytest.mark.skipif(
    not (DATA / "ptb/train.txt").is_file(), reason="needs Penn Treebank in $DARTS_TF_DATA/ptb"
)
def test_penn_treebank_has_the_published_counts():
    corpus = load_corpus(DATA / "ptb")
    assert [len(p) for p in (corpus.train, corpus.valid, corpus.test)] == [929_589, 73_760, 82_430]
    assert len(corpus.vocabulary) == 10_000


def test_a_folder_without_the_files_says_what_it_holds(tmp_path):
    for name in ("train.txt", "ptb.valid.txt"):
        (tmp_path / name).write_text("a b\n")
    with pytest.raises(InputError, match="no valid.txt and no test.txt.*found: ptb.valid.txt, tra"):
        load_corpus(tmp_path)


def test_a_text_that_does_not_fit_in_memory_is_not_read(tmp_path, monkeypatch):
    import types

    import psutil

    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("a b\n")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=200))
    with pytest.raises(InputError, match="The text in .* would take .* Take a shorter text"):
        load_corpus(tmp_path)


def tokens(folder, change):
    """The numbers of the corpus whose texts were changed, and its vocabulary."""
    for part, text in PARTS.items():
        (folder / f"{part}.txt").write_bytes(change(text).encode())
    corpus = load_corpus(folder)
    return [getattr(corpus, part).tolist() for part in PARTS], corpus.vocabulary.words


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", " <eos>\n"),
        lambda text: text.replace("\n", " <eos> \t\n"),
        lambda text: text.replace("\n", " <eos>\n", 1),
        lambda text: text.replace("\n", " <eos>\n").rstrip("\n"),
        lambda text: text.replace("\n", " <eos> ").strip(),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", " <eos>\r"),
        lambda text: text.replace(" ", "\u00a0").replace("\n", "  \n"),
        lambda text: "\ufeff" + text.rstrip("\n"),
    ],
)
def test_a_line_is_marked_once_whatever_ends_it(folder, change):
    assert tokens(folder, change) == tokens(folder, lambda text: text)


def test_marked_and_unmarked_texts_have_the_perplexity_of_their_words(folder):
    tokens(folder, lambda text: text.replace("\n", " <eos>\r\n"))
    words = "the cat sat <eos> the dog <eos>".split()
    # Each of the 8 words of the vocabulary counts once more: the words of test.txt are a, dog, sat
    # and <eos>, which are in the training part 0, 1, 1 and 2 times.
    assert len(words) == 7
    expected = np.exp(-np.mean(np.log(np.array([1, 2, 2, 3]) / (7 + 8))))
    corpus = load_corpus(folder)
    assert corpus.unigram_perplexity("test") == pytest.approx(expected)
    assert (corpus.share("<eos>"), corpus.share("the", "train")) == (1 / 4, 2 / 7)
    assert load_corpus(folder, "train").share("<unk>", "valid") == 1 / 3


def test_a_blank_line_is_one_that_holds_its_mark_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a <eos>\n\r\n \t\n<eos>\nb\n\n")
    assert read_words(path) == ["a", "<eos>", "<eos>", "<eos>", "<eos>", "b", "<eos>", "<eos>"]


@pytest.mark.parametrize("mark", ["</s>", "<EOS>", "<|endoftext|>", "[SEP]"])
def test_the_end_marks_of_others_would_give_ours_away(tmp_path, mark):
    path = tmp_path / "train.txt"
    path.write_text(f"a b {mark}\n\nc {mark}\n")
    with pytest.raises(InputError, match="All lines of .*train.txt end in .* <eos> marks the end"):
        read_words(path)
    path.write_text(f"a b {mark}\nc\n")
    assert read_words(path) == ["a", "b", mark, "<eos>", "c", "<eos>"]
    path.write_text("a <unk>\nb <unk>\n")
    assert read_words(path) == ["a", "<unk>", "<eos>", "b", "<unk>", "<eos>"]


def test_bad_bytes_are_in_the_line_that_readers_of_files_count(tmp_path):
    path = tmp_path / "a.txt"
    for content in (b"a\rb\r\nc\n\xff", b"a\rb\r\nc\n\0"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="line 4 holds the byte 0x"):
            read_words(path)
