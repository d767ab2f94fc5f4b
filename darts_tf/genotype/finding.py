"""Genotypes wherever they stand: in a log, a Python or YAML file, quoted, or in JSON."""

import re
from dataclasses import dataclass
from typing import Any

from darts_tf.errors import InputError
from darts_tf.genotype.json_form import FORMAT, check_length, is_plain, plain_fields, read_document
from darts_tf.genotype.text_form import read_literal
from darts_tf.reading import parse_json

# A class of that name is none, and a dictionary is one that begins with a field.
_START = re.compile(
    r"(?<!class )\b(?:Recurrent)?Genotype\s*\("
    r"|\{\s*(['\"])(?:normal|normal_concat|reduce|reduce_concat|recurrent|concat)\1\s*:"
)
_MARK = re.compile(r"""'[^'\n]*'|"[^"\n]*"|\#[^\n]*|[(\[{]|[)\]}]""")
_TAIL = re.compile(r"(?:\.\w|[(\[])?")
_NAME = re.compile(r"([\w.-]+)\s*['\"]?\s*[=:]\s*['\"]?(?:\w+\.)*$")
_NAME_LENGTH = 100

MOST = 5000
"""Far more genotypes than a search logs; keeps a text from being tried at every word."""


@dataclass(frozen=True)
class Found:
    """A genotype that was found and is not yet checked.

    Args:
        name: What stands before it, as in `DARTS = Genotype(...)`; "" for nothing.
        place: Where it stands, for people.
        content: Its text, or its parsed JSON.
        start: Line and column at which the text begins.
    """

    name: str
    place: str
    content: Any
    start: tuple[int, int] = (1, 1)

    def read(self) -> tuple[str, dict[str, Any]]:
        """Kind and fields, their content unchecked.

        Raises:
            InputError: It is no genotype; the message says what stands there.
        """
        if isinstance(self.content, str):
            return read_literal(self.content, *self.start)
        if "format" in self.content or not is_plain(self.content):
            return read_document(self.content)[:2]
        return plain_fields(self.content)


def find(text: str) -> list[Found]:
    """What stands in a text as `Genotype(...)`, as a dictionary of its fields, or as JSON.

    What is commented out, or holds no quoted name, counts only where there is nothing else.

    Raises:
        InputError: The text is empty, too long, or holds nothing of the kind.
    """
    check_length(text)
    found, refusal = [], None
    if text.strip()[0] in '{["':
        try:
            found = _in_json(parse_json(text, "the genotype"))
        except InputError as error:
            refusal = error
    found = found or _in_text(text)
    if found:
        return found
    raise refusal or InputError(
        f"Expected a genotype as Genotype(normal=[...], ...). Received: {text.strip()[:60]!r}."
    )


def _in_json(document: Any) -> list[Found]:
    """In what is parsed: objects with the fields of a genotype, and texts that hold one."""
    found, left = [], [("", document)]
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            if value.get("format") == FORMAT or is_plain(value):
                found.append(Found(name, "its JSON", value))
            else:
                # Cut, as a long name of many entries would be kept for each of them.
                within = f"{name}." if name else ""
                left += [
                    (f"{within}{key}"[:_NAME_LENGTH], inner)
                    for key, inner in reversed(value.items())
                ]
        elif isinstance(value, list):
            left += [(name, inner) for inner in reversed(value)]
        elif isinstance(value, str):
            found += [Found(one.name or name, "its JSON", one.content) for one in _in_text(value)]
    return found


def _in_text(text: str) -> list[Found]:
    starts = list(_START.finditer(text))
    if len(starts) > MOST:
        raise InputError(
            f"The text holds more than {MOST} genotypes. Cut out the part that holds yours."
        )
    ends = [*(match.start() for match in starts), len(text)][1:]
    line, newline, last, found = 1, -1, 0, []
    for match, end in zip(starts, ends, strict=True):
        start = match.start()
        line += text.count("\n", last, start)
        newline, last = max(newline, text.rfind("\n", last, start)), start
        before = text[max(0, start - _NAME_LENGTH) : start]
        content = _literal(_unquoted(text[start:end], before))
        name = _NAME.search(before)
        one = Found(name[1] if name else "", f"line {line}", content, (line, start - newline))
        commented = before.rpartition("\n")[2].lstrip().startswith("#")
        found.append((not commented and ("'" in content or '"' in content), one))
    best = any(counts for counts, _ in found)
    return [one for counts, one in found if counts >= best]


def _unquoted(text: str, before: str) -> str:
    """The text as it was before it was quoted as a whole, as YAML, JSON and Python do."""
    quote = re.search(r"(['\"])(?:\w+\.)*$", before)
    if not quote:
        return text
    text = text.replace(f"\\{quote[1]}", quote[1])
    return text.replace("''", "'") if quote[1] == "'" else text


def _literal(text: str) -> str:
    """The text up to the bracket that closes its first one, or all of it."""
    depth = 0
    for mark in _MARK.finditer(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(mark[0], 0)
        if depth == 0 and mark[0] in (")", "]", "}"):
            # What is done to it belongs to it, and is refused.
            return text[: mark.end()] + _TAIL.match(text, mark.end())[0]
    return text.rstrip()
