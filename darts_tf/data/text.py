"""Text by words: corpora from a folder, one that is built in, and their vocabulary."""

import collections
import dataclasses
import io
import math
import os
import pathlib
import re
import reprlib
from collections.abc import Iterable, Sequence

import numpy as np

from darts_tf.errors import InputError, unknown_name, whole_number
from darts_tf.reading import check_memory, read_bytes

END, UNKNOWN = "<eos>", "<unk>"
"""The word at the end of a line, and the one that stands for all unknown ones."""

PARTS = ("train", "valid", "test")
VOCABULARIES = ("all", "train")
BUILT_IN = "python_topics"

LARGEST_TEXT = 2**30
"""Bytes of a file."""

_MEMORY = 20
"""Bytes of memory that a byte of text takes while it is read, about."""

_LINE_END = re.compile(rb"\r\n?|\n")
_MARK = re.compile(r"<.+>|\[.+\]")
"""What others mark the end of a line by, such as </s>, <|endoftext|> and [SEP]."""

LONGEST_WORD = 1000
"""Characters; what has no white space for longer is not a text by words."""


_MOST_LISTED = 20


class Vocabulary:
    """The words of a model, numbered from 0.

    Args:
        words: The words in the order of their numbers; `<eos>` and `<unk>` are added at the end
            where they are missing.

    Raises:
        InputError: A word comes twice, is empty or holds white space.
    """

    def __init__(self, words: Iterable[str]):
        words = list(words)
        words += [special for special in (END, UNKNOWN) if special not in words]
        for word in words:
            if not isinstance(word, str) or word.split() != [word]:
                raise InputError(
                    "A word must be text without white space. Received: "
                    f"{reprlib.repr(word)} in a vocabulary."
                )
            if any("\ud800" <= c <= "\udfff" for c in word):
                raise InputError(f"A word must be UTF-8 text. Received: {word!a} in a vocabulary.")
        self.words = tuple(words)
        self._numbers = {word: number for number, word in enumerate(words)}
        if len(self._numbers) < len(words):
            twice = next(w for w, n in collections.Counter(words).items() if n > 1)
            raise InputError(f"The vocabulary holds {twice!r} twice. Give every word once.")

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._numbers

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """The numbers of words, int32; that of `<unk>` for those that are not known."""
        unknown = self._numbers[UNKNOWN]
        return np.array([self._numbers.get(word, unknown) for word in words], np.int32)

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words of numbers."""
        return [self.words[int(number)] for number in numbers]


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A text in three parts, as word numbers.

    Attributes:
        name: What errors and records call it.
        vocabulary: The words.
        train, valid, test: int32, one number for each word, `<eos>` included.
    """

    name: str
    vocabulary: Vocabulary
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    def unigram_perplexity(self, part: str = "test") -> float:
        """The perplexity of guessing each word by how often it is in the training part.

        Every word counts once more than it is there, so that none is impossible. What a language
        model must beat.

        Args:
            part: "train", "valid" or "test".

        Raises:
            InputError: The part is not known.
        """
        counts = np.bincount(self.train, minlength=len(self.vocabulary)) + 1.0
        log_probability = np.log(counts / counts.sum())
        return math.exp(-log_probability[self._part(part)].mean())

    def share(self, word: str, part: str = "test") -> float:
        """How much of a part a word makes up, 0 to 1.

        `<unk>` and `<eos>` are easy to guess: perplexities of texts that differ in their shares
        cannot be compared.

        Args:
            word: The word; one that is not known is `<unk>`.
            part: "train", "valid" or "test".

        Raises:
            InputError: The part is not known.
        """
        return float((self._part(part) == self.vocabulary.encode([word])[0]).mean())

    def _part(self, part: str) -> np.ndarray:
        if part not in PARTS:
            raise unknown_name("part of a corpus", part, PARTS)
        return getattr(self, part)


def load_corpus(
    folder: str | os.PathLike[str], vocabulary: str = "all", min_count: int = 1
) -> Corpus:
    """Reads a corpus: white space parts the words of a line, and each line ends in one `<eos>`.

    A line that ends in `<eos>` already gets no second, which would be no feat to guess. A blank
    line counts as one that holds nothing else, as published.

    Args:
        folder: A folder with train.txt, valid.txt and test.txt, UTF-8.
        vocabulary: "all": the words of all three files in the order of their appearance, as
            published (Penn Treebank has 10,000, WikiText-2 33,278). "train": those of train.txt;
            others become `<unk>`.
        min_count: Words that train.txt holds less often become `<unk>` too; 1 for none.

    Returns:
        The corpus.

    Raises:
        InputError: The folder or a file is missing, a file holds no word or is not UTF-8 (its
            first bad line is named), or an argument is out of its range.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}. Name one that holds train.txt, valid.txt and test.txt."
        )
    missing = [f"{part}.txt" for part in PARTS if not (folder / f"{part}.txt").is_file()]
    if missing:
        there = sorted(path.name for path in folder.iterdir())
        found = ", ".join(there[:_MOST_LISTED]) + (" ..." if len(there) > _MOST_LISTED else "")
        raise InputError(
            f"The folder {folder} has no {' and no '.join(missing)}. A corpus consists of "
            f"train.txt, valid.txt and test.txt; found: {found or 'nothing'}."
        )
    size = sum((folder / f"{part}.txt").stat().st_size for part in PARTS)
    check_memory(_MEMORY * size, f"The text in {folder}", "Take a shorter text, or free memory.")
    return corpus_of(
        folder.name, *(read_words(folder / f"{p}.txt") for p in PARTS), vocabulary, min_count
    )


def corpus_of(
    name: str,
    train: Sequence[str],
    valid: Sequence[str],
    test: Sequence[str],
    vocabulary: str = "all",
    min_count: int = 1,
) -> Corpus:
    """A corpus of words; the arguments are those of `load_corpus`."""
    if vocabulary not in VOCABULARIES:
        raise unknown_name("vocabulary", vocabulary, VOCABULARIES)
    min_count = whole_number("min_count", min_count)
    counts = collections.Counter(train)
    sources = (train, valid, test) if vocabulary == "all" else (train,)
    # A dict keeps the order of first appearance. Words that train lacks have no count to judge by.
    words = dict.fromkeys(
        word
        for words in sources
        for word in words
        if counts.get(word, min_count) >= min_count or word in (END, UNKNOWN)
    )
    found = Vocabulary(words)
    return Corpus(name, found, *(found.encode(words) for words in (train, valid, test)))


def read_words(path: str | os.PathLike[str]) -> list[str]:
    """The words of a text file, one `<eos>` at the end of each line.

    Lines end in \\n, \\r\\n or \\r, as Python reads text files.

    Raises:
        InputError: It cannot be read, holds no word, one that is longer than `LONGEST_WORD`, is not
            UTF-8, or marks the ends of all its lines by something else than `<eos>`.
    """
    path = os.fspath(path)
    content = read_bytes(path, "text", "Name a text file that you may read.", LARGEST_TEXT)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: line {len(_LINE_END.findall(content[: error.start])) + 1} "
            f"holds the byte 0x{content[error.start]:02x}. Convert the file to UTF-8."
        ) from error
    # Other separators that splitlines() knows are white space within a line.
    lines = io.StringIO(text, newline=None).read().split("\n")
    if lines[-1].strip() == "":
        lines.pop()
    words, ends = [], collections.Counter()
    for number, line in enumerate(lines, 1):
        if "\0" in line:  # Every other byte of English in UTF-16, which is UTF-8 as well.
            raise InputError(
                f"{path} is not UTF-8 text: line {number} holds the byte 0x00, as UTF-16 "
                "does. Convert the file to UTF-8."
            )
        found = line.split()
        if len(line) > LONGEST_WORD and max(map(len, found), default=0) > LONGEST_WORD:
            raise InputError(
                f"{path} has a word of more than {LONGEST_WORD} characters in line "
                f"{number}. Words are parted by white space: put it between them."
            )
        words += found
        if found:
            ends[found[-1]] += 1
        if not found or found[-1] != END:
            words.append(END)
    if not ends:
        raise InputError(
            f"{path} is empty: it holds no word. A corpus needs text in each of "
            "train.txt, valid.txt and test.txt."
        )
    (mark, count), *others = ends.most_common(2)
    if not others and count > 1 and mark not in (END, UNKNOWN) and _MARK.fullmatch(mark):
        raise InputError(
            f"All lines of {path} end in {mark!r}. Here {END} marks the end of a line, and behind "
            f"another mark it would be given away. Put {END} in its place, or leave it out."
        )
    return words


def builtin_corpus() -> Corpus:
    """The documentation of Python's topics, which comes with Python: some 100,000 words of English.

    Lower-case words, digits and single punctuation marks, one paragraph a line. Paragraphs that
    come again are left out (a sixth of the text), and the parts share no topic: every tenth topic
    by name is for validation, every tenth for the test. The vocabulary is that of the training
    part, without words that come once. The text differs between versions of Python.
    """
    from pydoc_data import topics

    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    seen = set()
    # Whole topics go to one part; repeats are judged in the order of the names.
    for index, topic in enumerate(sorted(topics.topics)):
        part = {3: "valid", 8: "test"}.get(index % 10, "train")
        for paragraph in re.split(r"\n\s*\n", topics.topics[topic].lower()):
            words = re.findall(
                r"[a-z]+|\d|[^\sa-z\d]", re.sub(r"([*=\-~^\"'.])\1{3,}", "", paragraph)
            )
            line = " ".join(words)
            if not words or line in seen:
                continue
            seen.add(line)
            parts[part] += [*words, END]
    return corpus_of(BUILT_IN, *parts.values(), vocabulary="train", min_count=2)
