"""The published text form of a genotype, `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`.

It is read with Python's parser and never evaluated.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from darts_tf.errors import InputError
from darts_tf.genotype.json_form import FIELDS, check_length

MAX_NUMBER = 100_000
"""Far above any node; keeps a huge range from being written out."""

# A log line or an assignment may stand before the call, as the authors' programs print it.
_CALL = re.compile(r"(?:[^\n()]*=)?\s*(Genotype\s*\(.*)", re.DOTALL)
# Without operators and backslashes the parser has nothing to warn about and little to nest.
_FOREIGN = re.compile(r"[^\w\s'\"(),=\[\]#.:/-]")


def write_text(fields: Mapping[str, Any]) -> str:
    """The published text of fields whose cells are already in their published, flat form."""
    parts = []
    for name, value in fields.items():
        text = _range(value) if name.endswith("concat") else str(list(value))
        parts.append(f"{name}={text}")
    return f"Genotype({', '.join(parts)})"


def _range(concat: Sequence[int]) -> str:
    first, end = concat[0], concat[0] + len(concat)
    if tuple(concat) == tuple(range(first, end)):
        return f"range({first}, {end})"
    return str(list(concat))


def read_text(text: str) -> tuple[str, dict[str, Any]]:
    """Reads the published form: kind and fields, their content unchecked.

    Accepted are a call of Genotype with the fields by name or in order, lists, tuples, text, whole
    numbers and range(...), and before the call, on its line, an assignment or a log prefix.

    Raises:
        InputError: The text is empty, too long, or anything else than that.
    """
    check_length(text)
    match = _CALL.fullmatch(text.strip())
    if not match:
        raise InputError(
            f"Expected a genotype as Genotype(normal=[...], ...). Received: {text.strip()[:60]!r}."
        )
    foreign = _FOREIGN.search(match[1])
    if foreign:
        raise InputError(
            f"The genotype holds the character {foreign[0]!r}, which no genotype has. "
            "Was it copied whole and without changes?"
        )
    try:
        call = ast.parse(match[1].strip(), mode="eval").body
        return _fields(call)
    except SyntaxError as error:
        raise InputError(
            f"The genotype cannot be read: {error.msg} at line {error.lineno}, column "
            f"{error.offset}. Was it copied whole?"
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError("The genotype cannot be read: it is nested too deeply.") from error


def _fields(call: ast.expr) -> tuple[str, dict[str, Any]]:
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise InputError("Expected one call, Genotype(...), and nothing after it.")
    if call.func.id != "Genotype":
        raise InputError(f"Expected a call of Genotype. Received a call of {call.func.id[:60]}.")
    kind = _kind(len(call.args), [keyword.arg or "**" for keyword in call.keywords])
    names = [*FIELDS[kind][: len(call.args)], *(keyword.arg for keyword in call.keywords)]
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return kind, {name: _literal(value) for name, value in zip(names, values, strict=True)}


def _kind(unnamed: int, named: Sequence[str]) -> str:
    """The kind of genotype that takes so many fields in order and these by name."""
    for kind, names in FIELDS.items():
        if unnamed <= len(names) and sorted(named) == sorted(names[unnamed:]):
            return kind
    expected = " or ".join(", ".join(names) for names in FIELDS.values())
    raise InputError(
        f"Genotype(...) takes {expected}, each once. Received: {unnamed} without a name and by "
        f"name {', '.join(named)[:200] or 'none'}."
    )


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (str, int):
        return node.value if isinstance(node.value, str) else _small(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_integer(node.operand)
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        if 1 <= len(node.args) <= 2 and not node.keywords:
            return list(range(*(_integer(argument) for argument in node.args)))
        raise InputError(
            "Expected range(end) or range(start, end). Received another number of them."
        )
    raise InputError(
        "A genotype holds only lists, tuples, text, whole numbers and range(...). Received at line "
        f"{node.lineno}, column {node.col_offset + 1}: {type(node).__name__}."
    )


def _integer(node: ast.expr) -> int:
    value = _literal(node)
    if not isinstance(value, int):
        raise InputError(
            f"Expected a whole number at line {node.lineno}, column {node.col_offset + 1}."
        )
    return value


def _small(value: int) -> int:
    if value > MAX_NUMBER:
        raise InputError(f"A genotype has no number above {MAX_NUMBER}. Received a larger one.")
    return value
