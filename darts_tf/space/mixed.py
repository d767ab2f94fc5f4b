"""The mixed operation (paper, equation 2): every candidate on one edge, weighted by a softmax."""

import dataclasses

from darts_tf.space.block import Block
from darts_tf.space.primitives import Shapes, activation_function, primitive


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

    def __call__(self, weights, norms, x, softmax):
        """Sums the candidates.

        Args:
            weights: The candidates' weights by name.
            norms: The candidates' BatchNorms.
            x: (batch, height, width, channels).
            softmax: (candidates,) the mixing weights: softmax(alpha) of this edge.

        Returns:
            (batch, height / stride, width / stride, channels).
        """
        activation = activation_function(self.activation)
        total = 0.0
        for index, name in enumerate(self.primitives):
            own = {
                key.removeprefix(f"{name}/"): weight
                for key, weight in weights.items()
                if key.startswith(f"{name}/")
            }
            y = primitive(name).apply(x, own, norms.within(name), self.stride, True, activation)
            total += softmax[index] * y
        return total


class MixedOperation(Block):
    """The mixed operation of one edge, with the weights of all its candidates.

    Args:
        primitives: Names of the candidates, in the order of alpha's columns.
        channels: Channels of input and output.
        stride: 1, or 2 on the edges that leave the inputs of a reduction cell.
        activation: Name of the activation inside the candidates.

    Call arguments:
        x: (batch, height, width, channels).
        softmax: (candidates,) mixing weights.
        training: Whether BatchNorm uses the batch's statistics.
    """

    def __init__(
        self,
        primitives: tuple[str, ...],
        channels: int,
        stride: int,
        activation: str = "relu",
        name: str | None = None,
    ):
        # BatchNorm has no scale here: it could undo the mixing weights.
        function = MixedFunction(tuple(primitives), stride, activation)
        super().__init__(function, channels, channels, affine=False, name=name)
