"""The candidate operations of the convolutional cell by name (paper, section 3; authors' code).

A primitive owns no variables. It names the weights and the BatchNorms that it needs and is a pure
function of them, so that the same primitive serves the mixed operation of the search, the derived
cell, and any weights that the virtual step or a test wants to evaluate it at.

The search form has BatchNorms without scale and shift, and one behind each pool; the evaluation
form has both scale and shift, and bare pools (authors' networks; the paper's reason: a scale could
undo the mixing weights).
"""

import functools
from collections.abc import Callable, Mapping

import tensorflow as tf

from darts_tf.errors import InputError, unknown_name
from darts_tf.space import functional
from darts_tf.space.dual import join, symmetric
from darts_tf.space.state import Activation, State

Shapes = dict[str, tuple[int, ...]]
Normalise = Callable[[str, tf.Tensor], tf.Tensor]


class Primitive:
    """One operation from `channels_in` to `channels_out` channels at stride 1 or 2.

    Attributes:
        takes_dual: Whether `apply` takes a `Dual` wherever it takes a tensor, as it does if it
            computes with the functions of `functional` alone. If not, the exact second order uses
            nested tapes.
        ends_with_norm: Whether nothing but a rearrangement of pixels follows the last BatchNorm
            that `norms` names, if it names any. The mixed operation then makes its weight the
            BatchNorm's scale, in place of a product with the output: right only where
            f(p * x) = p * f(x) for all that follows.
    """

    takes_dual = False
    ends_with_norm = False

    def kernels(self, channels_in: int, channels_out: int, stride: int) -> Shapes:
        """Names and shapes of the weights, BatchNorm's scale and shift left out."""
        return {}

    def norms(self, stride: int, search: bool) -> tuple[str, ...]:
        """Names of the BatchNorms, each over `channels_out` channels."""
        return ()

    def reads(self, stride: int) -> tuple[str, ...]:
        """Names of the tensors of `State` that `apply` begins with."""
        return ("whole",)

    def apply(
        self,
        state: State,
        kernels: Mapping[str, tf.Tensor],
        normalise: Normalise,
        stride: int,
        search: bool,
    ) -> tf.Tensor:
        """Computes (batch, H, W, channels in) -> (batch, H / stride, W / stride, channels out).

        Args:
            state: The input; odd sizes are rounded up when divided by the stride.
            kernels: The weights named by `kernels`.
            normalise: Applies the BatchNorm of a name to a tensor.
            stride: 1 or 2.
            search: Search form or evaluation form.
        """
        raise TypeError(
            f"{type(self).__name__} must define apply(), the tensor function of the primitive."
        )


class Zero(Primitive):
    """No connection. It takes part in the softmax, and never in a derived cell."""

    takes_dual = True

    def apply(self, state, kernels, normalise, stride, search):
        """0 * x at the output's size; a NaN or infinity in x shows."""
        return state.whole[:, ::stride, ::stride] * 0


class Pool(Primitive):
    """3x3 pooling, followed by BatchNorm in the search form only."""

    takes_dual = True
    ends_with_norm = True

    def __init__(self, pooled: str):
        self.pooled = pooled

    def norms(self, stride, search):
        """One in the search form, none in the evaluation form."""
        return ("bn",) if search else ()

    def reads(self, stride):
        """The pooled state."""
        return (self.pooled,)

    def apply(self, state, kernels, normalise, stride, search):
        """pool [- BatchNorm]."""
        (y,) = state.read(self.reads(stride))
        return normalise("bn", y) if search else y


class SeparableConvolution(Primitive):
    """(activation, depthwise k x k, 1x1, BatchNorm) twice; the first depthwise has the stride."""

    takes_dual = True
    ends_with_norm = True

    def __init__(self, size: int):
        self.size = size

    def kernels(self, channels_in, channels_out, stride):
        """The first 1x1 convolution keeps the number of channels."""
        depthwise = (self.size, self.size, channels_in, 1)
        return {
            "dw1/kernel": depthwise,
            "pw1/kernel": (1, 1, channels_in, channels_in),
            "dw2/kernel": depthwise,
            "pw2/kernel": (1, 1, channels_in, channels_out),
        }

    def norms(self, stride, search):
        """Two."""
        return ("bn1", "bn2")

    def reads(self, stride):
        """The activated state."""
        return ("activated",)

    def apply(self, state, kernels, normalise, stride, search):
        """No BatchNorm and no activation between a depthwise and its 1x1 convolution."""
        h, k = state.activated, kernels
        h = functional.separable(h, k["dw1/kernel"], k["pw1/kernel"], stride)
        h = state.activation(normalise("bn1", h))
        return normalise("bn2", functional.separable(h, k["dw2/kernel"], k["pw2/kernel"]))


class DilatedConvolution(Primitive):
    """Activation, depthwise k x k with dilation 2, 1x1, BatchNorm; once, not repeated."""

    takes_dual = True
    ends_with_norm = True

    def __init__(self, size: int):
        self.size = size

    def kernels(self, channels_in, channels_out, stride):
        """One depthwise and one 1x1 kernel."""
        return {
            "dw/kernel": (self.size, self.size, channels_in, 1),
            "pw/kernel": (1, 1, channels_in, channels_out),
        }

    def norms(self, stride, search):
        """One."""
        return ("bn",)

    def reads(self, stride):
        """The activated state, taken apart: dilation 2 on the whole is dilation 1 on its phases."""
        return ("activated", "phases") if stride == 1 else ("even_pixels",)

    def apply(self, state, kernels, normalise, stride, search):
        """Activation - depthwise - 1x1 - BatchNorm.

        At stride 2 only even pixels meet a kernel of dilation 2: its padding k - 1 is even.
        """
        phased = stride == 1 and state.phases.shape[1] != state.activated.shape[1]
        x, k = state.phases if stride == 1 else state.even_pixels, kernels
        if phased or stride == 2:
            y = functional.separable(x, k["dw/kernel"], k["pw/kernel"])
        else:
            y = functional.depthwise(x, k["dw/kernel"], dilation=2)
            y = functional.pointwise(y, k["pw/kernel"])
        y = normalise("bn", y)
        return functional.merge_phases(y) if phased else y


class Convolution1x7Then7x1(Primitive):
    """Activation, full 1x7 and 7x1 convolutions, BatchNorm (in AmoebaNet's cells only)."""

    takes_dual = True
    ends_with_norm = True

    def kernels(self, channels_in, channels_out, stride):
        """The 1x7 kernel is applied first, in spite of the primitive's published name."""
        return {
            "conv1x7/kernel": (1, 7, channels_in, channels_out),
            "conv7x1/kernel": (7, 1, channels_out, channels_out),
        }

    def norms(self, stride, search):
        """One."""
        return ("bn",)

    def reads(self, stride):
        """The activated state."""
        return ("activated",)

    def apply(self, state, kernels, normalise, stride, search):
        """The stride is horizontal in the first convolution and vertical in the second."""
        h = functional.convolution(state.activated, kernels["conv1x7/kernel"], (1, stride))
        h = functional.convolution(h, kernels["conv7x1/kernel"], (stride, 1))
        return normalise("bn", h)


class ReluConvBn(Primitive):
    """Activation, 1x1 convolution, BatchNorm: the preprocessing of a cell's input."""

    takes_dual = True
    ends_with_norm = True

    def kernels(self, channels_in, channels_out, stride):
        """One 1x1 kernel."""
        return {"conv/kernel": (1, 1, channels_in, channels_out)}

    def norms(self, stride, search):
        """One."""
        return ("bn",)

    def reads(self, stride):
        """The activated state."""
        return ("activated",)

    def apply(self, state, kernels, normalise, stride, search):
        """Activation - 1x1 - BatchNorm."""
        return normalise("bn", functional.pointwise(state.activated, kernels["conv/kernel"]))


class FactorizedReduce(Primitive):
    """Halves the size: two 1x1 convolutions, on the even and on the odd pixels, joined.

    At an odd size the odd pixels are one fewer than the even ones; a row or column of zeros is
    added behind the activation so that both halves agree. (The authors' code fails there; at even
    sizes nothing is added.)
    """

    takes_dual = True
    ends_with_norm = True

    def kernels(self, channels_in, channels_out, stride):
        """Half of the output channels each; an odd number leaves one more to the even pixels."""
        odd = channels_out // 2
        return {
            "conv1/kernel": (1, 1, channels_in, channels_out - odd),
            "conv2/kernel": (1, 1, channels_in, odd),
        }

    def norms(self, stride, search):
        """One over both halves."""
        return ("bn",)

    def reads(self, stride):
        """Two of the four phases of the activated state."""
        return ("even_pixels", "odd_pixels")

    def apply(self, state, kernels, normalise, stride, search):
        """Pixels (0, 0), (0, 2), ... first, then (1, 1), (1, 3), ..."""
        even = functional.pointwise(state.even_pixels, kernels["conv1/kernel"])
        odd = functional.pointwise(state.odd_pixels, kernels["conv2/kernel"])
        return normalise("bn", join([even, odd]))


class SkipConnect(Primitive):
    """The identity at stride 1 (no activation or BatchNorm), a factorized reduction at stride 2."""

    takes_dual = True
    ends_with_norm = True

    def kernels(self, channels_in, channels_out, stride):
        """None at stride 1."""
        return {} if stride == 1 else FACTORIZED_REDUCE.kernels(channels_in, channels_out, stride)

    def norms(self, stride, search):
        """None at stride 1."""
        return () if stride == 1 else FACTORIZED_REDUCE.norms(stride, search)

    def reads(self, stride):
        """The state itself at stride 1."""
        return ("whole",) if stride == 1 else FACTORIZED_REDUCE.reads(stride)

    def apply(self, state, kernels, normalise, stride, search):
        """The state itself at stride 1."""
        if stride == 1:
            return state.whole
        return FACTORIZED_REDUCE.apply(state, kernels, normalise, stride, search)


RELU_CONV_BN = ReluConvBn()
FACTORIZED_REDUCE = FactorizedReduce()

PRIMITIVES: dict[str, Primitive] = {
    "none": Zero(),
    "max_pool_3x3": Pool("max_pooled"),
    "avg_pool_3x3": Pool("average_pooled"),
    "skip_connect": SkipConnect(),
    "sep_conv_3x3": SeparableConvolution(3),
    "sep_conv_5x5": SeparableConvolution(5),
    "dil_conv_3x3": DilatedConvolution(3),
    "dil_conv_5x5": DilatedConvolution(5),
    "sep_conv_7x7": SeparableConvolution(7),
    "conv_7x1_1x7": Convolution1x7Then7x1(),
}
"""Every primitive by name; a new one is a class here and a name in `darts_tf.genotype`."""

ACTIVATIONS: dict[str, Activation] = {
    name: functools.partial(symmetric, function)
    for name, function in (("relu", tf.nn.relu), ("softplus", tf.nn.softplus), ("tanh", tf.tanh))
}
"""ReLU as published; the smooth ones have no kinks, for numeric checks of second derivatives."""


def primitive(name: str) -> Primitive:
    """The primitive of a name.

    Raises:
        InputError: The name is not known; the message lists the known ones.
    """
    if name not in PRIMITIVES:
        raise unknown_name("primitive", name, PRIMITIVES)
    return PRIMITIVES[name]


def activation_function(name: str) -> Activation:
    """The activation of a name.

    Raises:
        InputError: The name is not known; the message lists the known ones.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def check_primitives(names: tuple[str, ...]) -> tuple[str, ...]:
    """The candidates of a search space, checked.

    Raises:
        InputError: A name is not known, is given twice, or fewer than one operation that computes
            is left.
    """
    for name in names:
        primitive(name)
    if len(set(names)) != len(names):
        raise InputError(f"Every primitive can be a candidate once. Received: {', '.join(names)}.")
    if not set(names) - {"none"}:
        raise InputError(
            "A search space needs at least one primitive other than 'none'. "
            f"Received: {', '.join(names) or 'no names'}."
        )
    return tuple(names)
