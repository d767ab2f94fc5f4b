"""The JSON form of a genotype: plain fields in, text out, and back."""

import json
from collections.abc import Mapping
from typing import Any

from darts_tf.errors import InputError
from darts_tf.genotype.validation import show
from darts_tf.reading import MEBIBYTE, parse_json

FORMAT = "darts_tf.genotype"
VERSION = 1
MAX_CHARACTERS = MEBIBYTE
FIELDS = {
    "cnn": ("normal", "normal_concat", "reduce", "reduce_concat"),
    "rnn": ("recurrent", "concat"),
}
"""The fields of a genotype by kind, in the published order."""


def write_json(kind: str, fields: Mapping[str, Any], provenance: Mapping[str, Any] | None) -> str:
    """The text of a genotype; the same input always gives the same text.

    Args:
        kind: A key of `FIELDS`.
        fields: The fields of that kind; cells are lists of nodes.
        provenance: Any JSON object that says how the genotype was found, numbers of NumPy included;
            None is an empty one.

    Raises:
        InputError: `provenance` is not a JSON object.
    """
    if provenance is not None and not isinstance(provenance, Mapping):
        raise InputError(
            "provenance must be a mapping of names to JSON values. "
            f"Received: {type(provenance).__name__}."
        )
    try:
        origin = json.dumps(
            dict(provenance or {}), indent=2, sort_keys=True, allow_nan=False, default=_plain
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            "provenance must hold JSON values only: text, finite numbers, true, false, null, lists "
            f"and objects with text keys. Received one that does not fit: {error}."
        ) from error
    entries = {"format": json.dumps(FORMAT), "version": json.dumps(VERSION)}
    entries["kind"] = json.dumps(kind)
    for name in FIELDS[kind]:
        entries[name] = _one_line_per_node(fields[name])
    entries["provenance"] = origin.replace("\n", "\n  ")
    lines = ",\n".join(f'  "{name}": {value}' for name, value in entries.items())
    return "{\n" + lines + "\n}\n"


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is none of these")


def _one_line_per_node(value: Any) -> str:
    if not isinstance(value[0], tuple):
        return json.dumps(value)
    lines = ",\n".join(f"    {json.dumps(node)}" for node in value)
    return f"[\n{lines}\n  ]"


def read_json(text: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Reads what `write_json` wrote: kind, fields (their content unchecked) and provenance.

    Raises:
        InputError: The text is empty, too long, no JSON, of another format or version, or lacks or
            exceeds the fields of its kind.
    """
    check_length(text)
    return read_document(parse_json(text, "the genotype"))


def read_document(document: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Reads the parsed JSON of `write_json`; see `read_json`."""
    if not isinstance(document, dict):
        raise InputError(f"A genotype is a JSON object. Received: {show(document)}.")
    if document.get("format") != FORMAT:
        raise InputError(
            f'A genotype says "format": "{FORMAT}". Received: {show(document.get("format"))}. '
            "Is this another kind of file?"
        )
    version = document.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise InputError(
            f"This program reads version {VERSION} of the genotype format. "
            f"Received version {show(version)}. A newer version needs a newer darts_tf."
        )
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise InputError(f"Unknown kind of genotype {show(kind)}. Known: {', '.join(FIELDS)}.")
    provenance = document.get("provenance", {})
    if not isinstance(provenance, dict):
        raise InputError(f"provenance must be a JSON object. Received: {show(provenance)}.")
    _check_keys(document, kind)
    return kind, {name: document[name] for name in FIELDS[kind]}, provenance


def is_plain(document: Any) -> bool:
    """Whether a parsed value gives the cells of a genotype by name, as other tools write them."""
    return isinstance(document, Mapping) and (
        {"normal", "reduce"} <= document.keys() or "recurrent" in document
    )


def plain_fields(document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Kind and fields of a genotype that other tools wrote; what else stands there is left out.

    A concat list may be missing.

    Raises:
        InputError: There are no cells.
    """
    if not is_plain(document):
        raise InputError(
            "A genotype has the fields normal and reduce, or recurrent. Received: "
            f"{', '.join(map(str, document))[:200] or 'none'}."
        )
    kind = "cnn" if "normal" in document else "rnn"
    return kind, {name: document[name] for name in FIELDS[kind] if name in document}


def check_length(text: str) -> None:
    """Refuses what is no genotype text before any parser sees it.

    Raises:
        InputError: `text` is not a str, is blank, or longer than `MAX_CHARACTERS`.
    """
    if not isinstance(text, str):
        raise InputError(f"A genotype is read from text. Received: {type(text).__name__}.")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"The text has {len(text)} characters; a genotype has at most {MAX_CHARACTERS}. "
            "Is this another kind of file?"
        )
    if not text.strip():
        raise InputError("The text is empty. Expected a genotype as JSON or as Genotype(...).")


def _check_keys(document: Mapping[str, Any], kind: str) -> None:
    required = ("format", "version", "kind", *FIELDS[kind])
    missing = [name for name in required if name not in document]
    if missing:
        raise InputError(
            f"The {kind} genotype lacks {', '.join(missing)}. Expected: {', '.join(required)}, and "
            "if you like provenance."
        )
    extra = [name for name in document if name not in (*required, "provenance")]
    if extra:
        raise InputError(
            f"The {kind} genotype holds {show(extra[0])}, which the format does not have. "
            f"Expected: {', '.join(required)}, and if you like provenance."
        )
