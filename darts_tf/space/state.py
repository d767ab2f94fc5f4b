"""State: a node of a cell, and what the candidates on the edges that leave it begin with."""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from darts_tf.space import functional
from darts_tf.space.dual import Number, linear

Activation = Callable[[Number], Number]


@linear
def _phase(x: tf.Tensor, index: int) -> tf.Tensor:
    return tf.split(x, 4)[index]


class State:
    """The output of a node, with everything that candidates compute from it without weights.

    The paper's mixed operation begins with the activation, or a pool, on every edge anew. Up to
    four edges leave a node; each of these tensors is computed once for all of them, when it is
    first asked for.

    Args:
        stride: 1 or 2, of the edges that leave it.
        activation: ReLU in the published space.
        **known: `whole`, the output of the node (batch, height, width, channels), or those of the
            tensors below that are computed already.
    """

    def __init__(self, stride: int = 1, activation: Activation = tf.nn.relu, **known: Number):
        self.stride = stride
        self.activation = activation
        self.__dict__.update(known)

    def read(self, names: Sequence[str]) -> tuple[Number, ...]:
        """Tensors of this state by name."""
        return tuple(getattr(self, name) for name in names)

    @functools.cached_property
    def activated(self) -> Number:
        """activation(whole)."""
        return self.activation(self.whole)

    @functools.cached_property
    def phases(self) -> Number:
        """`activated` as its four phases (see `functional.phases`), for convolutions at dilation 2.

        Where height or width is odd and the stride 1 it is `activated` itself: the fourth phase
        would be smaller than the first.
        """
        height, width = self.activated.shape[1:3]
        even = height and width and height % 2 == 0 and width % 2 == 0
        return functional.phases(self.activated) if even or self.stride == 2 else self.activated

    @functools.cached_property
    def even_pixels(self) -> Number:
        """`activated` at the pixels (0, 0), (0, 2), ..."""
        return _phase(self.phases, 0)

    @functools.cached_property
    def odd_pixels(self) -> Number:
        """`activated` at the pixels (1, 1), (1, 3), ..., as many as even ones."""
        return _phase(self.phases, 3)

    @functools.cached_property
    def max_pooled(self) -> Number:
        """3x3 maxima of `whole` at the stride."""
        return functional.max_pool(self.whole, self.stride)

    @functools.cached_property
    def average_pooled(self) -> Number:
        """3x3 averages of `whole` at the stride."""
        return functional.average_pool(self.whole, self.stride)
