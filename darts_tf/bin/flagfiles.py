"""Looks at flagfiles before absl reads them: it takes any file, of any size, whole."""

import os
import re

from darts_tf.errors import InputError
from darts_tf.reading import read_text

MOST_FILES = 100
_DIRECTIVE = re.compile(r"--?flagfile(?:=|\s+)(.*)")


def check(arguments: list[str]) -> None:
    """Reads all flagfiles that a command line names, and those that they name.

    Raises:
        InputError: One cannot be read, is not text, or is too large; or they name each other more
            often than anybody would write by hand.
    """
    left, count = _named(arguments), 0
    while left:
        above, path = left.pop()
        if path in above:
            continue  # absl warns and goes on
        count += 1
        if count > MOST_FILES:
            raise InputError(f"Flagfiles name more than {MOST_FILES} flagfiles, {path} among them.")
        text = read_text(path, "flagfile", "A flagfile has one --name=value in each line.")
        if "\0" in text:
            raise InputError(f"Flagfile {path} holds the character '\\x00'. Is it a text file?")
        left += _named(text.split("\n"), (*above, path))


def _named(lines: list[str], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """The flagfiles that lines name, each with those that led to it."""
    found = []
    for line, following in zip(lines, [*lines, ""][1:], strict=True):
        match = _DIRECTIVE.fullmatch(line.strip())
        path = match[1] if match else ""
        if line in ("--flagfile", "-flagfile") and not above:  # the path is the next argument
            path = following
        if path:
            found.append((above, os.path.expanduser(path.strip())))
    return found
