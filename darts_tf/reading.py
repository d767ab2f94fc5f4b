"""Reading what others wrote: sizes before memory, and nothing is executed."""

import json
import math
import os
import re
from typing import Any

from darts_tf.errors import InputError

MEBIBYTE = 2**20


def read_bytes(
    path: str | os.PathLike[str], what: str, remedy: str, largest: int = MEBIBYTE
) -> bytes:
    """The content of a file.

    Args:
        path: The file.
        what: What it should be, for the errors, such as "genotype file".
        remedy: A sentence that says what to do instead.
        largest: Bytes that such a file has at most.

    Raises:
        InputError: It cannot be read, or is larger.
    """
    try:
        with open(path, "rb") as file:
            # Read and not asked for its size, which a pipe or a device does not tell.
            content = file.read(largest + 1)
    except OSError as error:
        raise InputError(
            f"Cannot read {what} {os.fspath(path)}: {error.strerror}. {remedy}"
        ) from error
    except ValueError as error:
        raise InputError(f"Cannot read {what} {os.fspath(path)!r}: {error}. {remedy}") from error
    if len(content) > largest:
        raise InputError(
            f"{_capital(what)} {os.fspath(path)} is larger than {largest} bytes. "
            f"Is this another kind of file? {remedy}"
        )
    return content


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuses what does not fit in the memory that is free.

    Args:
        needed: Bytes.
        what: What needs them, such as "Data set 'mine': 5 images of 8x8x3".
        remedy: A sentence that says what to do instead.

    Raises:
        InputError: It does not fit.
    """
    import psutil

    available = psutil.virtual_memory().available
    if needed > available:
        raise InputError(
            f"{what} would take {needed / 2**30:,.1f} GiB of memory, of which "
            f"{available / 2**30:,.1f} GiB are free. {remedy}"
        )


def read_text(path: str | os.PathLike[str], what: str, remedy: str, largest: int = MEBIBYTE) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors write.

    Args:
        path, what, remedy, largest: As for `read_bytes`.

    Raises:
        InputError: As for `read_bytes`, or it is not UTF-8; the line is named.
    """
    content = read_bytes(path, what, remedy, largest)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{_capital(what)} {os.fspath(path)} is not UTF-8 text (byte {error.start}). "
            f"Is this another kind of file? {remedy}"
        ) from error


def read_object(
    path: str | os.PathLike[str], what: str, remedy: str, largest: int = MEBIBYTE
) -> dict[str, Any]:
    """The JSON object in a file; see `parse_json` for what is refused.

    Args:
        path, what, remedy, largest: As for `read_bytes`.

    Raises:
        InputError: As for `read_text`, or it holds no JSON object.
    """
    where = f"{what} {os.fspath(path)}"
    text = read_text(path, what, remedy, largest)
    try:
        found = parse_json(text, where)
    except InputError as error:
        raise InputError(f"{error} {remedy}") from error
    if not isinstance(found, dict):
        raise InputError(
            f"{_capital(where)} must hold a JSON object. Received: {type(found).__name__}. {remedy}"
        )
    return found


def parse_json(text: str, what: str) -> Any:
    """The value of a JSON text, in which everything means what it says.

    Python's reader would keep the last of two values of one name, read NaN and numbers too large
    for a float, and pass on halves of characters that cannot be written again.

    Args:
        text: The text.
        what: What it should be, for the errors, such as "the genotype".

    Raises:
        InputError: It is not JSON, or one of these.
    """
    what = _capital(what)

    def refuse_constant(name):
        raise InputError(f"{what} is not valid JSON: it holds {name}, which JSON does not have.")

    def finite(digits):
        value = float(digits)
        if not math.isfinite(value):
            raise InputError(
                f"{what} is not valid: it holds the number {digits[:60]}, which is too large."
            )
        return value

    def unique(pairs):
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(
                f"{what} is not valid: its JSON gives {twice[:60]!r} twice. Give it once."
            )
        return result

    try:
        found = json.loads(
            text, object_pairs_hook=unique, parse_constant=refuse_constant, parse_float=finite
        )
    except json.JSONDecodeError as error:
        raise InputError(
            f"{what} is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}). "
            "Was the file cut short or edited?"
        ) from error
    except RecursionError as error:
        raise InputError(f"{what} is not valid: its JSON is nested too deeply.") from error
    except InputError:
        raise
    except ValueError as error:
        # json passes on int()'s refusal of a number with thousands of digits.
        raise InputError(f"{what} is not valid JSON: {error}.") from error
    # Only an escape can make one: what was decoded from UTF-8 has none.
    if re.search(r"\\u[dD][89a-fA-F]", text) and _has_half_character(found):
        raise InputError(f"{what} is not valid: it holds one half of a surrogate pair.")
    return found


def _has_half_character(value: Any) -> bool:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            return True
    return False


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
