"""Genotypes in files: read in either form, written as JSON without ever leaving half a file."""

import os
from collections.abc import Mapping
from typing import Any

from darts_tf import files
from darts_tf.errors import InputError
from darts_tf.genotype.genotype import Genotype, RecurrentGenotype, parse_text
from darts_tf.genotype.json_form import MAX_CHARACTERS, read_json
from darts_tf.reading import read_text


def load(
    path: str | os.PathLike[str], which: str | int | None = None
) -> Genotype | RecurrentGenotype:
    """Reads a genotype file: the JSON that `save` writes, or any text that holds a genotype.

    Args:
        path: The file, of at most 1 MiB: of a longer log cut out the part that holds the genotype.
        which: Of several genotypes in it, the name or the index, as for `parse_text`.

    Raises:
        InputError: The file cannot be read, holds no genotype, or several that differ; the message
            names it.
    """
    text = _read(path)
    try:
        return parse_text(text, which)
    except InputError as error:
        raise InputError(f"Genotype file {os.fspath(path)}: {error}") from error


def load_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the genotype of a file was found, as given to `save`; empty for other forms.

    Raises:
        InputError: The file cannot be read or holds no genotype; the message names it.
    """
    load(path)
    try:
        return read_json(_read(path))[2]
    except InputError:  # Another form, of which nothing else is known.
        return {}


def save(
    genotype: Genotype | RecurrentGenotype,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes a genotype as JSON; a reader sees the old file or the new one, never a part.

    Args:
        genotype: What to write.
        path: The file, in a folder that exists.
        provenance: Any JSON object that says how the genotype was found.

    Raises:
        InputError: `genotype` is none, `provenance` is not a JSON object, or the file cannot be
            written.
    """
    if not isinstance(genotype, Genotype | RecurrentGenotype):
        raise InputError(
            f"Expected a Genotype or a RecurrentGenotype. Received: {type(genotype).__name__}."
        )
    files.write(path, genotype.to_json(provenance))


def _read(path: str | os.PathLike[str]) -> str:
    remedy = "Give a file that holds a genotype as JSON or as Genotype(...)."
    return read_text(path, "genotype file", remedy, MAX_CHARACTERS)
