"""Published genotypes by name, with where they come from and what networks of them weigh."""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from darts_tf.errors import InputError, unknown_name
from darts_tf.genotype.files import load
from darts_tf.genotype.genotype import KINDS, Genotype, RecurrentGenotype, parse_text


@dataclass(frozen=True)
class ZooEntry:
    """One published genotype.

    Args:
        name: Its name in the zoo.
        kind: "cnn" or "rnn".
        genotype: The cells.
        source: The paper and the code that published it.
        networks: Known counts by published network ("cifar10", "imagenet", "ptb", "wikitext2"): the
            settings of the network, `weights` (trainable numbers without the auxiliary head, the
            tied embedding once) and for images `auxiliary_head_weights` and `multiply_adds` (of
            convolutions and classifier, one image). Empty where nothing was counted.
    """

    name: str
    kind: str
    genotype: Genotype | RecurrentGenotype
    source: str
    networks: Mapping[str, Mapping[str, int]]


def names(kind: str = "cnn") -> tuple[str, ...]:
    """The names of the published genotypes of a kind, "cnn" or "rnn", aliases included.

    Raises:
        InputError: The kind is not known.
    """
    return (*_contents(kind)["genotypes"], *_contents(kind)["aliases"])


def entry(name: str, kind: str = "cnn") -> ZooEntry:
    """A published genotype with its provenance and counts; an alias gives what it stands for.

    Raises:
        InputError: The kind or the name is not known.
    """
    contents = _contents(kind)
    if name not in names(kind):
        raise unknown_name("genotype", name, names(kind))
    name = contents["aliases"].get(name, name)
    values = contents["genotypes"][name]
    genotype = KINDS[kind](**values["genotype"])
    return ZooEntry(name, kind, genotype, values["source"], values["networks"])


def genotype(name: str, kind: str = "cnn") -> Genotype | RecurrentGenotype:
    """A published genotype by name.

    Raises:
        InputError: The kind or the name is not known.
    """
    return entry(name, kind).genotype


def load_genotype(
    name_or_file: str | os.PathLike[str],
    kind: str | None = None,
    which: str | int | None = None,
) -> Genotype | RecurrentGenotype:
    """The genotype that a user means: published, in a file, or written out.

    Args:
        name_or_file: A name of the zoo; the path of a file, with `#name` or `#index` behind it to
            choose one of several genotypes; or the text of a genotype itself.
        kind: "cnn" or "rnn": where the name is looked up, and what the file must hold. By default a
            name is one of a convolutional cell where it can be, and the file may hold either.
        which: Of several genotypes, the name that stands before it or its index, from 0 or, from
            the end, -1.

    Raises:
        InputError: It is none of these, the file cannot be read, or holds a genotype of the other
            kind, or several and which is not said.
    """
    name = os.fspath(name_or_file)
    known = [name for each in (KINDS if kind is None else [kind]) for name in names(each)]
    if name in known:
        return genotype(name, kind or next(each for each in KINDS if name in names(each)))
    file, mark, fragment = name.rpartition("#")
    if os.path.exists(name):
        found, what = load(name, which), f"Genotype file {name} holds"
    elif mark and os.path.exists(file):
        found, what = load(file, fragment), f"Genotype file {name} holds"
    elif any(bracket in name for bracket in "({"):
        found, what = parse_text(name, which), "The text is"
    else:
        error = unknown_name("genotype", name, known)
        raise InputError(
            f"{error} The path of a genotype file is accepted as well, and a genotype written out."
        )
    if kind and not isinstance(found, KINDS[kind]):
        raise InputError(
            f"{what} a {type(found).__name__}; here a {KINDS[kind].__name__} is needed."
        )
    return found


def _contents(kind: str) -> dict[str, Any]:
    if kind not in KINDS:
        raise unknown_name("kind of genotype", kind, KINDS)
    return _read()[kind]


@functools.cache
def _read() -> dict[str, Any]:
    file = resources.files("darts_tf.genotype").joinpath("zoo.json")
    return json.loads(file.read_text(encoding="utf-8"))
