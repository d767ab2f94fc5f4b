"""Genotype files: read in either form, written whole, and never more than a clear refusal."""

import random
import re

import pytest

from darts_tf.errors import InputError
from darts_tf.genotype import (
    Genotype,
    from_json,
    load,
    load_provenance,
    parse_text,
    save,
    zoo,
)

UNEVEN = [[("sep_conv_3x3", 1)], [("max_pool_3x3", 2), ("dil_conv_5x5", 0), ("skip_connect", 1)]]
ALL = [zoo.genotype(name, kind) for kind in ("cnn", "rnn") for name in zoo.names(kind)] + [
    Genotype(UNEVEN, [3, 2], UNEVEN, [2])
]


def refused(call, *arguments, words: str) -> None:
    """The call is answered with these words, in this order, anything between them."""
    pattern = ".*".join(re.escape(part) for part in words.split(" ... "))
    with pytest.raises(InputError, match=re.compile(pattern, re.DOTALL)):
        call(*arguments)


def test_a_file_in_either_form_is_read(tmp_path):
    path = tmp_path / "genotype.json"
    for genotype in ALL:
        save(genotype, path, {"epoch": 7})
        assert load(path) == load(str(path)) == genotype
        assert load_provenance(path) == {"epoch": 7}
        path.write_text("\ufeff" + genotype.to_text(), encoding="utf-8")
        assert load(path) == genotype
        assert load_provenance(path) == {}


def test_saving_replaces_the_file_whole_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "genotype.json"
    save(ALL[0], path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    refused(save, ALL[1], path, words="Cannot write ... No space left on device.")
    assert load(path) == ALL[0]
    assert [file.name for file in tmp_path.iterdir()] == ["genotype.json"]


def test_files_that_cannot_be_used_are_named(tmp_path):
    refused(load, tmp_path / "no.json", words="Cannot read genotype file ... no.json: No such file")
    refused(load, tmp_path, words=f"{tmp_path}: Is a directory.")
    refused(load, "a\0b", words="Cannot read genotype file 'a\\x00b': embedded null byte.")
    file = tmp_path / "genotype.json"
    for content, words in (
        (b"", "genotype.json: The text is empty."),
        (b"\xff\xfe", "genotype.json is not UTF-8 text (byte 0)."),
        (b" " * (2**20 + 1), "genotype.json is larger than 1048576 bytes."),
        (b'{"format": ', "genotype.json: The genotype is not valid JSON: "),
        (b"Genotype(", "genotype.json: The genotype cannot be read: "),
    ):
        file.write_bytes(content)
        refused(load, file, words=words)
        refused(load_provenance, file, words=words)
    refused(save, ALL[0], tmp_path / "no" / "a.json", words="Cannot write ... No such file")
    refused(
        save, "DARTS_V2", file, words="Expected a Genotype or a RecurrentGenotype. Received: str."
    )


# Damaged texts.


def damaged(text: str, source: random.Random) -> str:
    """The text with one to three of its parts changed, removed, repeated or moved."""
    for _ in range(source.randint(1, 3)):
        start = source.randrange(len(text) + 1)
        end = min(len(text), start + source.choice((0, 1, 1, 1, 2, 8, 100)))
        new = source.choice(
            ("", chr(source.randrange(128)), chr(source.randrange(0x3000)), text[start:end] * 2)
            + tuple("0123456789[](){},'\":=-") + ("range(", "NaN", "null", "none", "True", "1e9")
        )  # fmt: skip
        text = text[:start] + new + text[end:]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_text_is_a_genotype_or_refused(seed):
    source = random.Random(seed)
    read = refusals = 0
    for _ in range(2000):
        genotype = source.choice(ALL)
        for text, parse in (
            (genotype.to_json({"epoch": 1}), from_json),
            (genotype.to_text(), parse_text),
        ):
            try:
                found = parse(damaged(text, source))
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
                refusals += 1
                continue
            assert from_json(found.to_json()) == found
            assert parse_text(found.to_text()) == found
            read += 1
    assert read > 20 and refusals > 1000
