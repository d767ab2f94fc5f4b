"""docs/operations.md: every message that it quotes is in the code, every flag and file too."""

import ast
import re

import pytest

from tests.rooms import REPOSITORY, library_files

DOCUMENT = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")


def texts():
    """All texts in the sources, with \\0 for what is put in; absl's of flags among them."""
    found = ["Unknown command line flag ", "flag --"]
    for path in library_files():
        tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
                found.append("".join(map(str, parts)))
    return found


TEXTS = texts()


def rows(heading):
    """The cells of the rows of the table under a heading."""
    part = DOCUMENT.split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    # A | within a cell would be written \|.
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


MESSAGES = [quoted for row in rows("Messages") for quoted in re.findall(r"`([^`]+)`", row[1])]


def test_there_are_messages_with_all_that_belongs_to_them():
    assert len(MESSAGES) > 30
    for row in rows("Messages"):
        assert len(row) == 4 and all(row), row


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_code(message):
    pieces = [piece.strip(" ,;.:()") for piece in message.split("...")]
    assert any(len(piece) > 3 for piece in pieces)
    for piece in pieces:
        assert any(piece in text for text in TEXTS), piece


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"--(\w+)", DOCUMENT))))
def test_a_named_flag_is_defined(flag):
    flag = flag.removeprefix("no") if flag not in TEXTS else flag
    assert flag in TEXTS or any(
        re.search(rf"\b{flag}: (int|float|bool|str) = ", (REPOSITORY / path).read_text())
        for path in library_files()
    )


def test_named_exit_codes_are_those_of_the_programs():
    from darts_tf.bin import common
    from darts_tf.training import signals

    codes = {row[0] for row in rows("Exit codes")}
    assert signals.INTERRUPTED == common.INTERRUPTED
    for name in ("DONE", "USAGE_ERROR", "STOPPED", "INTERRUPTED"):
        assert str(getattr(common, name)) in codes


def test_named_files_are_written_by_the_code():
    named = {
        n for row in rows("What is saved, when and where") for n in re.findall(r"`([^`]+)`", row[0])
    }
    assert len(named) > 10
    for name in named - {"--workdir"}:
        ending = name.rstrip("/").split("/")[-1].split("SSSSSSSS")[-1]
        assert any(ending in text for text in TEXTS), name


def test_the_readme_links_to_it():
    assert "(docs/operations.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
