"""Mutations of valid files for property-based tests: thousands of nearly right ones.

A flipped bit, a cut, a piece gone or twice, two words exchanged, a word from elsewhere, another
number; and in JSON another value, a missing or a second key, in places where the text stays JSON.
"""

import copy
import json
import re

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SEPARATORS = b"[](){},:\"'= \n"
NUMBERS = (
    b"-1", b"0", b"1", b"2", b"7", b"99", b"1e999", b"-1e999", b"1e5", b"0.5", b"NaN", b"nan",
    b"Infinity", b"inf", b"0x10", b"1_0", b"\xd9\xa3", b"9" * 30, b"9" * 5000, b"2147483648",
)  # fmt: skip
ODD = (
    b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1b[2J", b"\r", b"\x85",
    b"\xe2\x80\xa8", b"\\ud800", b"\\u0000", b"\\", b"null", b"true", b"None", b"True", b"{}",
    b"[]", b'""', b"__import__", b"lambda: 0", b"*", b"[" * 200, b"(" * 200, b'{"a":' * 200,
    b"[" * 100_000, b"-" * 3000, b"x" * 5000, b"# a\n", b"\xe2\x88\x9e",
)  # fmt: skip


def repeatable(examples: int) -> settings:
    """Settings with which every run tries the same examples and leaves nothing on the disk."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        # Fixtures that only name a folder or collect output may serve all examples.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )


@st.composite
def mutated(draw, valid: tuple[bytes, ...], words: tuple[bytes, ...] = ()):
    """The bytes of one of the valid files with one to three mutations, or with none.

    Args:
        valid: Whole files.
        words: More to put in, beside numbers and odd things.
    """
    content = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 3))):
        content = draw(st.sampled_from(_KINDS))(draw, content, words)
    return content


def _place(draw, content):
    return draw(st.integers(0, max(len(content) - 1, 0)))


def _piece(draw, content):
    start = _place(draw, content)
    return start, start + draw(st.integers(1, 40))


def _flip(draw, content, words):
    if not content:
        return content
    place = _place(draw, content)
    flipped = content[place] ^ (1 << draw(st.integers(0, 7)))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def _cut(draw, content, words):
    return content[: _place(draw, content)]


def _drop(draw, content, words):
    start, end = _piece(draw, content)
    return content[:start] + content[end:]


def _twice(draw, content, words):
    start, end = _piece(draw, content)
    return content[:end] + content[start:end] + content[end:]


def _lines_twice(draw, content, words):
    lines = content.split(b"\n")
    place = draw(st.integers(0, len(lines) - 1))
    return b"\n".join([*lines[: place + 1], *lines[place:]])


def _insert(draw, content, words):
    place = _place(draw, content)
    new = draw(st.sampled_from((*ODD, *NUMBERS, *words)) | st.binary(min_size=1, max_size=8))
    return content[:place] + new + content[place:]


def _word(draw, content):
    found = list(re.finditer(rb"[\w.+-]+", content))
    return draw(st.sampled_from(found)).span() if found else (0, 0)


def _replace(draw, content, words):
    start, end = _word(draw, content)
    return content[:start] + draw(st.sampled_from((*NUMBERS, *ODD, *words))) + content[end:]


def _exchange(draw, content, words):
    (a, b), (c, d) = sorted((_word(draw, content), _word(draw, content)))
    return (
        content if c < b else content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
    )


def _separator(draw, content, words):
    places = [place for place, byte in enumerate(content) if byte in SEPARATORS]
    if not places:
        return content
    place = draw(st.sampled_from(places))
    new = draw(st.sampled_from([b"", *(SEPARATORS[i : i + 1] for i in range(len(SEPARATORS)))]))
    return content[:place] + new + content[place + 1 :]


_KINDS = (
    _flip, _cut, _drop, _twice, _lines_twice, _insert, _replace, _replace, _exchange, _separator,
)  # fmt: skip

VALUES = (
    None, True, False, 0, 1, 2, 3, -1, 10**30, 0.5, 1e300, "", "x", "\ud800", "\0", "NaN", [], {},
    [[]], [None], {"a": 1}, [0, 1], "2", 2.0, "x" * 5000,
)  # fmt: skip


@st.composite
def mutated_json(draw, valid: tuple[bytes, ...], words: tuple[object, ...] = ()):
    """A JSON text whose values, keys or entries differ in one to three places from a valid one."""
    text = draw(st.sampled_from(valid))
    document = json.loads(text)
    twice = False
    for _ in range(draw(st.integers(1, 3))):
        places = list(_containers(document))
        home = places[draw(st.integers(0, len(places) - 1))] if places else None
        if not home:
            document = copy.deepcopy(draw(st.sampled_from(VALUES)))
            continue
        key = draw(st.sampled_from(list(home) if isinstance(home, dict) else range(len(home))))
        kind = draw(st.sampled_from(("value", "value", "gone", "again", "key", "other", "nest")))
        if kind == "value":
            # A copy: the next mutation may go into it.
            home[key] = copy.deepcopy(draw(st.sampled_from((*VALUES, *words))))
        elif kind == "gone":
            del home[key]
        elif kind == "again" and isinstance(home, list):
            home.insert(key, copy.deepcopy(home[key]))
        elif kind == "key" and isinstance(home, dict):
            home[draw(st.sampled_from(("", "x", "format", "kind", "normal", "words")))] = (
                copy.deepcopy(home[key])
            )
        elif kind == "other":
            other = draw(
                st.sampled_from(list(home) if isinstance(home, dict) else range(len(home)))
            )
            home[key], home[other] = home[other], home[key]
        elif kind == "nest":
            home[key] = [home[key]]
        else:
            twice = True
    text = json.dumps(document)
    if twice and isinstance(document, dict) and document:
        key = draw(st.sampled_from(list(document)))
        value = draw(st.sampled_from(("1", json.dumps(document[key]))))
        text = f"{text[:-1]}, {json.dumps(key)}: {value}}}"
    return text.encode()


def _containers(value):
    if isinstance(value, dict | list) and value:
        yield value
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _containers(entry)
