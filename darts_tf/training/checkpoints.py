"""Checkpoints: the whole state of a run in one file, which is complete or not there.

A file is a line of ASCII, a line of JSON, and the values of all variables one after another, as
they lie in memory:

    darts_tf checkpoint <format version> <SHA-256 of what follows> <number of bytes that follow>
    {"epoch": 3, "step": 0, "seconds": 0.0, "settings": {...}, "variables": [[shape, type], ...]}
    ...

A run on several replicas has "parts" too: what each replica has of the metrics, whose sums are
among the values. They are used by as many replicas.

Reading one allocates what the variables need and no more, and executes nothing.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from darts_tf import files, replicas
from darts_tf.errors import InputError
from darts_tf.reading import parse_json

FORMAT = 1
SUFFIX = ".checkpoint"
_NAME = b"darts_tf checkpoint"
_LONGEST_MANIFEST = 1 << 26
_NAMED = re.compile(r"([0-9]{6,})-([0-9]{8,})" + re.escape(SUFFIX))


class Position(NamedTuple):
    """Where a run is, in both of its streams of data: batches are functions of it.

    Attributes:
        epoch: Whole epochs that are done.
        step: Steps of the next one that are done.
    """

    epoch: int
    step: int


@dataclasses.dataclass(frozen=True)
class Saving:
    """When checkpoints are taken, besides at the end of every epoch.

    Attributes:
        minutes: Between two checkpoints within an epoch; 0 for one after every step.
        keep: How many are kept, 1 or more.
    """

    minutes: float = 10.0
    keep: int = 3


class Unusable(Exception):
    """Why a checkpoint cannot be resumed from."""


@dataclasses.dataclass(frozen=True)
class State:
    """What a checkpoint holds.

    Attributes:
        position: Where the run was.
        seconds: What the unfinished epoch has taken so far.
        values: The values of the variables.
        parts: What each replica has of some of them; see `replicas.Parts`.
    """

    position: Position
    seconds: float
    values: list[np.ndarray]
    parts: Sequence[np.ndarray] = ()


class Checkpoints:
    """The last states of a run.

    Args:
        folder: Where they are; made when the first is saved.
        variables: Everything that changes: weights, alphas, running statistics, optimizers with
            their schedules, metrics so far, random state.
        settings: What makes the run this run; a checkpoint of others is not used.
        keep: How many are kept, 1 or more.
        writes: Whether this process saves them; of several workers the first does.
        strategy: On which devices the run is; None for one.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        variables: Sequence[keras.Variable],
        settings: Mapping[str, Any] | None = None,
        keep: int = 3,
        writes: bool = True,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.folder = pathlib.Path(folder)
        self.variables = list(variables)
        self.settings = json.loads(json.dumps(dict(settings or {})))
        self.keep, self.writes = keep, writes
        self.newest: Position | None = None
        self._parts = replicas.Parts(strategy or tf.distribute.get_strategy(), self.variables)

    def save(self, position: Position, seconds: float = 0.0) -> None:
        """Saves the present state, and removes the oldest.

        Raises:
            InputError: It cannot be written; the checkpoints that are there stay.
        """
        # Metrics are summed over all workers when they are read, so that all must read them.
        values = [v.value.numpy() for v in self.variables]
        parts_of_replicas = self._parts.get()
        if not self.writes:
            self.newest = position
            return
        manifest = {
            **position._asdict(),
            "seconds": round(seconds, 3),
            "settings": self.settings,
            "variables": self._described(),
        }
        if parts_of_replicas:
            manifest["parts"] = [value.tolist() for value in parts_of_replicas]
        pieces = [json.dumps(manifest).encode() + b"\n"]
        pieces += [value.tobytes() for value in values]
        total, digest = sum(map(len, pieces)), hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        head = b"%s %d %s %d\n" % (_NAME, FORMAT, digest.hexdigest().encode(), total)
        files.make_folder(self.folder)
        path = self.folder / _file_name(position)
        with files.replacing(path, len(head) + total) as partial, open(partial, "wb") as file:
            for piece in (head, *pieces):
                file.write(piece)
        self.newest = position
        for old in self._paths()[self.keep :]:
            old.unlink(missing_ok=True)

    def restore(self) -> State | None:
        """Sets the variables to the newest state that can be used; None if there is no checkpoint.

        Prints a line for each newer one that cannot be used, and renames it.

        Raises:
            InputError: There are checkpoints, and none can be used.
        """
        refused = []
        for path in self._paths():
            try:
                state = self._read(path)
            except Unusable as why:
                refused.append((path, why))
                continue
            for bad, why in refused if self.writes else ():
                print(f"checkpoint  {bad} {why}; resuming from {path.name}", flush=True)
                os.replace(bad, bad.with_name(bad.name + ".unusable"))
            self.newest = state.position
            self.assign(state)
            return state
        if refused:
            reasons = "; ".join(f"{path.name} {why}" for path, why in refused)
            raise InputError(
                f"No checkpoint in {self.folder} can be used: {reasons}. Nothing was started over. "
                "To begin anew name another folder with --workdir, or remove this one."
            )
        return None

    def assign(self, state: State) -> None:
        """Sets the variables to a state."""
        for variable, value in zip(self.variables, state.values, strict=True):
            variable.assign(value)
        self._parts.set(state.parts)

    def _paths(self) -> list[pathlib.Path]:
        """The files, the newest first; what has another name is none of the run's."""
        named = ((_NAMED.fullmatch(p.name), p) for p in self.folder.glob("*" + SUFFIX))
        found = [(int(name[1]), int(name[2]), path) for name, path in named if name]
        return [path for *_, path in sorted(found, reverse=True)]

    def _described(self) -> list:
        return [[list(v.shape), np.dtype(v.dtype).name] for v in self.variables]

    def _read(self, path: pathlib.Path) -> State:
        """The state in a file.

        Raises:
            Unusable: It is damaged, of another format, or of other variables or settings.
        """
        described = self._described()
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in described]
        try:
            with open(path, "rb") as file:
                head = file.readline(256)
                words = head.split()
                if not head.startswith(_NAME + b" ") or len(words) != 5:
                    raise Unusable("is damaged: its first line is not that of a checkpoint")
                if words[2] != b"%d" % FORMAT:
                    raise Unusable(f"has format {_text(words[2])}, and {FORMAT} is expected")
                there = os.fstat(file.fileno()).st_size - len(head)
                if words[4] != b"%d" % there:
                    raise Unusable(f"is damaged: {there} bytes of {_text(words[4])} are there")
                if there > sum(sizes) + _LONGEST_MANIFEST:
                    raise Unusable("is of another network, which needs more room")
                content = file.read(there)
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest().encode() != words[3]:
            raise Unusable("is damaged: its checksum differs")
        try:
            end = content.index(b"\n") + 1
            manifest = parse_json(content[:end].decode(), "its second line")
            position = Position(manifest["epoch"], manifest["step"])
            seconds, settings = manifest["seconds"], manifest["settings"]
            shapes = manifest["variables"]
            parts = [np.array(part, np.float64) for part in manifest.get("parts", [])]
            whole = all(type(number) is int and number >= 0 for number in position)
            if not (whole and type(seconds) in (int, float) and isinstance(settings, dict)):
                raise TypeError
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise Unusable("is damaged: it does not say what it holds") from error
        if path.name != _file_name(position):
            raise Unusable(f"is of another place in the run, and was named {_file_name(position)}")
        if settings != self.settings:
            raise Unusable(f"is of other flags: {_difference(settings, self.settings)}")
        if shapes != described or there != end + sum(sizes):
            raise Unusable("is of another network, with other shapes")
        values, offset = [], end
        for (shape, dtype), size in zip(described, sizes, strict=True):
            values.append(np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape))
            offset += size
        return State(position, seconds, values, parts)


def _file_name(position: Position) -> str:
    return f"{position.epoch:06d}-{position.step:08d}{SUFFIX}"


def _text(word: bytes) -> str:
    return word.decode("ascii", "backslashreplace")


def _difference(saved: Mapping, own: Mapping) -> str:
    """The first settings that differ."""
    names = [n for n in sorted({*saved, *own}) if saved.get(n) != own.get(n)]
    text = ", ".join(
        f"{n} was {saved.get(n, 'not set')}, now {own.get(n, 'not set')}" for n in names[:3]
    )
    return " ".join(text.split())[:300]
