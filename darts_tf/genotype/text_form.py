"""The published text form of a genotype, `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`.

It is read with Python's parser and never evaluated.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from darts_tf.errors import InputError
from darts_tf.genotype.json_form import FIELDS, plain_fields
from darts_tf.genotype.validation import show

MAX_NUMBER = 100_000
"""Far above any node; keeps a huge range from being written out."""

# Without operators and backslashes the parser has nothing to warn about and little to nest.
_FOREIGN = re.compile(r"[^\w\s'\"(){},=\[\]#.:/-]")
# What NumPy 2 writes around a number or a text, and what makes one list of another.
_SCALARS = re.compile(r"u?int(8|16|32|64)?|intp|float(16|32|64)?|str_")
_LISTS = ("array", "list", "tuple")
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a decimal number",
    complex: "an imaginary number",
    bool: "True or False",
    bytes: "bytes",
    type(None): "None",
    list: "a list",
    ast.List: "a list",
    ast.Tuple: "a list",
    ast.Dict: "a dictionary",
    ast.Set: "a set",
    ast.Call: "a function call",
    ast.Lambda: "a function",
    ast.Name: "a name",
    ast.Attribute: "a name",
    ast.BinOp: "a calculation",
    ast.UnaryOp: "a calculation",
    ast.BoolOp: "a condition",
    ast.IfExp: "a condition",
    ast.Compare: "a comparison",
    ast.Subscript: "a subscript",
    ast.JoinedStr: "a text with values in it",
}
"""What may stand where a genotype has something else, in words."""


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


def read_literal(text: str, line: int = 1, column: int = 1) -> tuple[str, dict[str, Any]]:
    """Kind and fields of `Genotype(...)` or of a dictionary of the fields, their content unchecked.

    Accepted are the fields by name or in order; in them lists, tuples, text, numbers, range(...),
    and what NumPy writes around these.

    Args:
        text: The whole of it and nothing else.
        line, column: Where it begins, counted from 1, for the errors.

    Raises:
        InputError: It is anything else than that.
    """
    foreign = _FOREIGN.search(text)
    if foreign:
        raise InputError(
            f"The genotype holds the character {foreign[0]!r}, which no genotype has. "
            "Was it copied whole and without changes?"
        )
    reader = _Reader(line, column)
    try:
        return reader.fields(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        place = reader.place(error.lineno or 1, error.offset or 1)
        raise InputError(
            f"The genotype cannot be read: {error.msg} at {place}. Was it copied whole?"
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError("The genotype cannot be read: it is nested too deeply.") from error


class _Reader:
    """The values of a parsed text that begins at a place in another."""

    def __init__(self, line: int, column: int):
        self.line, self.column = line, column

    def place(self, line: int, column: int) -> str:
        column += self.column - 1 if line == 1 else 0
        return f"line {self.line + line - 1}, column {column}"

    def fields(self, node: ast.expr) -> tuple[str, dict[str, Any]]:
        if isinstance(node, ast.Dict):
            names = [self.literal(key) if key else "**" for key in node.keys]
            twice = [name for place, name in enumerate(names) if name in names[:place]]
            if twice:
                raise InputError(f"The genotype gives {show(twice[0])} twice. Give it once.")
            read = plain_fields(dict(zip(names, node.values, strict=True)))
            return read[0], {name: self.literal(value) for name, value in read[1].items()}
        if not isinstance(node, ast.Call):
            raise InputError("Expected one call, Genotype(...), and nothing after it.")
        kind = _kind(len(node.args), [keyword.arg or "**" for keyword in node.keywords])
        names = [*FIELDS[kind][: len(node.args)], *(keyword.arg for keyword in node.keywords)]
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        return kind, {n: self.literal(value) for n, value in zip(names, values, strict=True)}

    def literal(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and type(node.value) in (str, int, float):
            return _small(node.value) if type(node.value) is int else node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.typed(node.operand, int, float)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.literal(element) for element in node.elts]
        if isinstance(node, ast.Call):
            called = _called(node.func)
            if called == "range" and 1 <= len(node.args) <= 2 and not node.keywords:
                return list(range(*(self.typed(argument, int) for argument in node.args)))
            if called == "range":
                raise InputError(
                    "Expected range(end) or range(start, end). Received another number of them."
                )
            # Of these a dtype, or a device, may stand behind the value.
            if called in _LISTS and node.args:
                return self.typed(node.args[0], list)
            if _SCALARS.fullmatch(called) and len(node.args) == 1 and not node.keywords:
                expected = {"s": (str,), "f": (int, float)}.get(called[0], (int,))
                return self.typed(node.args[0], *expected)
        raise self.refusal(
            node, "A genotype holds only lists, tuples, text, numbers and range(...)"
        )

    def typed(self, node: ast.expr, *expected: type) -> Any:
        value = self.literal(node)
        if type(value) not in expected:
            words = " or ".join(_WORDS[kind] for kind in expected)
            raise self.refusal(node, f"Expected {words}")
        return value

    def refusal(self, node: ast.expr, expected: str) -> InputError:
        kind = type(node.value) if isinstance(node, ast.Constant) else type(node)
        place = self.place(node.lineno, node.col_offset + 1)
        received = _WORDS.get(kind, "something else")
        return InputError(f"{expected}. Received at {place}: {received}.")


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


def _called(function: ast.expr) -> str:
    """What a call names, without NumPy's name before it."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.attr if function.value.id in ("np", "numpy") else ""
    return function.id if isinstance(function, ast.Name) else ""


def _small(value: int) -> int:
    if value > MAX_NUMBER:
        raise InputError(f"A genotype has no number above {MAX_NUMBER}. Received a larger one.")
    return value
