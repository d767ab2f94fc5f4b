"""How the weights and running statistics of a block lie in its two variables."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from darts_tf.space.dual import Number, linear


@dataclasses.dataclass(frozen=True)
class View:
    """A named part of a variable, of consecutive elements."""

    variable: keras.Variable
    start: int
    shape: tuple[int, ...]

    def of(self, whole: np.ndarray | tf.Tensor) -> np.ndarray:
        """The same part of an array like the variable, such as its gradient."""
        flat = np.ravel(whole.numpy() if tf.is_tensor(whole) else whole)
        return flat[self.start : self.start + math.prod(self.shape)].reshape(self.shape)

    def numpy(self) -> np.ndarray:
        """The present value."""
        return self.of(self.variable.value)

    def assign(self, value: np.ndarray) -> None:
        """Sets the part, leaving the rest of the variable as it is."""
        whole = np.array(self.variable.value.numpy())
        whole.ravel()[self.start : self.start + math.prod(self.shape)] = np.ravel(value)
        self.variable.assign(whole)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and shapes of weights in a vector, and names of BatchNorms, in order; hashable."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    norms: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def unpack(self, vector: Number | None, dtype: tf.DType) -> dict[str, Number]:
        """The weights by name: kernels in a type, BatchNorm's scales and shifts as they are."""
        if vector is None:
            return {}
        pieces = split(vector, [math.prod(shape) for _, shape in self.shapes])
        weights = {
            key: tf.nest.map_structure(lambda part, shape=shape: tf.reshape(part, shape), piece)
            for (key, shape), piece in zip(self.shapes, pieces, strict=True)
        }
        of_norms = {f"{norm}/{what}" for norm in self.norms for what in ("gamma", "beta")}
        return {k: v if k in of_norms else linear(tf.cast)(v, dtype) for k, v in weights.items()}

    def views(self, variable: keras.Variable) -> dict[str, View]:
        """The parts of a vector that lies like this, by name."""
        sizes = [math.prod(shape) for _, shape in self.shapes]
        starts = itertools.accumulate(sizes, initial=0)
        return {
            key: View(variable, start, shape)
            for (key, shape), start in zip(self.shapes, starts, strict=False)
        }

    def within(self, prefix: str) -> "Layout":
        """What has names that begin with a prefix, by the rest of their names."""
        norms = {norm: () for norm in self.norms}
        return Layout(
            tuple(within(dict(self.shapes), prefix).items()), tuple(within(norms, prefix))
        )


class Composite:
    """A function of a block that is made of others, its parts, each of them traced by itself.

    Its weights and BatchNorms are those of its parts, one after the other, as "<part>/<name>".
    """

    def parts(self) -> Mapping[str, Any]:
        """The functions of the parts by name."""
        raise TypeError(f"{type(self).__name__} must define parts(), its functions by name.")


def layout_of(function: Any, channels_in: int, channels_out: int, affine: bool) -> Layout:
    """How the weights and BatchNorms of a function lie.

    Args:
        function: A `BlockFunction` or a `Composite`.
        channels_in, channels_out: Of the function, or of each of its parts.
        affine: Whether BatchNorms have a scale "<norm>/gamma" and a shift "<norm>/beta".
    """
    if isinstance(function, Composite):
        parts = {
            name: layout_of(part, channels_in, channels_out, affine)
            for name, part in function.parts().items()
        }
        return Layout(
            tuple((f"{name}/{k}", shape) for name, p in parts.items() for k, shape in p.shapes),
            tuple(f"{name}/{norm}" for name, part in parts.items() for norm in part.norms),
        )
    shapes, norms = dict(function.kernels(channels_in, channels_out)), tuple(function.norms())
    if affine:
        shapes |= {f"{n}/{what}": (channels_out,) for n in norms for what in ("gamma", "beta")}
    return Layout(tuple(shapes.items()), norms)


def split(vector: Number, sizes: list[int]) -> list[Number]:
    """Consecutive pieces of a vector, of given sizes."""
    pieces = [tf.split(part, sizes) for part in tf.nest.flatten(vector)]
    return [tf.nest.pack_sequence_as(vector, piece) for piece in zip(*pieces, strict=True)]


def within(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What has names that begin with a prefix, by the rest of their names."""
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
