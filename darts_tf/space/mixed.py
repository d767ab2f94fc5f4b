"""The mixed operation (paper, equation 2): every candidate on one edge, weighted by a softmax."""

import dataclasses
import itertools

import tensorflow as tf

from darts_tf.space.dual import scaled, total
from darts_tf.space.layout import within
from darts_tf.space.primitives import Shapes, activation_function, primitive
from darts_tf.space.state import State


@dataclasses.dataclass(frozen=True)
class MixedFunction:
    """m(x) = sum over the candidates o of softmax(alpha)_o * o(x)."""

    primitives: tuple[str, ...]
    stride: int
    activation: str = "relu"

    def kernels(self, channels_in: int, channels_out: int) -> Shapes:
        """Those of all candidates, as "<primitive>/<weight>"."""
        return {
            f"{name}/{key}": shape
            for name in self.primitives
            for key, shape in primitive(name)
            .kernels(channels_in, channels_out, self.stride)
            .items()
        }

    def norms(self) -> tuple[str, ...]:
        """Those of all candidates, as "<primitive>/<norm>"."""
        return tuple(
            f"{name}/{norm}"
            for name in self.primitives
            for norm in primitive(name).norms(self.stride, search=True)
        )

    def reads(self) -> tuple[str, ...]:
        """What the candidates read of the state, each tensor once."""
        read = (primitive(name).reads(self.stride) for name in self._computing)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(read)))

    def state(self, **known: tf.Tensor) -> State:
        """The state that the edge leaves."""
        return State(self.stride, activation_function(self.activation), **known)

    @property
    def _computing(self) -> tuple[str, ...]:
        """The candidates without `none`, which adds 0 * x: two passes over memory for nothing."""
        return tuple(name for name in self.primitives if name != "none")

    def __call__(self, weights, norms, state, softmax):
        """Sums the candidates.

        Args:
            weights: The candidates' weights by name.
            norms: The candidates' BatchNorms.
            state: The state that the edge leaves: (batch, height, width, channels).
            softmax: (candidates,) the mixing weights: softmax(alpha) of this edge.

        Returns:
            (batch, height / stride, width / stride, channels).
        """
        p = dict(zip(self.primitives, tf.unstack(softmax), strict=True))
        terms = []
        for name in self._computing:
            candidate, own = primitive(name), within(weights, name)
            applied = candidate.norms(self.stride, search=True)
            # Where a candidate ends with BatchNorm, p is its scale, which it has not otherwise in
            # the search: the product needs no pass of its own, forward or backward.
            folded = candidate.ends_with_norm and applied
            scales = {applied[-1]: p[name]} if folded else {}
            y = candidate.apply(state, own, norms.within(name, scales), self.stride, True)
            terms.append(y if folded else scaled(y, p[name]))
        return total(terms)
