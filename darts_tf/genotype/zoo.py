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
from darts_tf.genotype.genotype import KINDS, Genotype, RecurrentGenotype


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


def resolve(name_or_path: str, kind: str = "cnn") -> Genotype | RecurrentGenotype:
    """The genotype that a user means: a name of the zoo, or else a genotype file.

    Raises:
        InputError: It is neither, the file cannot be read, or holds a genotype of the other kind.
    """
    if name_or_path in names(kind):
        return genotype(name_or_path, kind)
    if not os.path.exists(name_or_path):
        error = unknown_name("genotype", name_or_path, names(kind))
        raise InputError(f"{error} The path of a genotype file is accepted as well.")
    found = load(name_or_path)
    if not isinstance(found, KINDS[kind]):
        raise InputError(
            f"Genotype file {name_or_path} holds a {type(found).__name__}; "
            f"here a {KINDS[kind].__name__} is needed."
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
