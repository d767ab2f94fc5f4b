"""What supernet and evaluation network have in common: stem, cell plan, classifier, checks."""

import dataclasses

import keras
import tensorflow as tf

from darts_tf.errors import InputError, whole_number
from darts_tf.space import functional
from darts_tf.space.block import OfWhole, kernel_initializer
from darts_tf.space.dual import bilinear, linear, read, total, value
from darts_tf.space.layout import View
from darts_tf.space.primitives import Shapes

MINIMUM_IMAGE_SIZE = 8


@dataclasses.dataclass(frozen=True)
class StemFunction(OfWhole):
    """[ReLU,] (3x3 convolution, BatchNorm), the stride 1 or 2, as the function of a block."""

    stride: int = 1
    relu_first: bool = False

    def kernels(self, channels_in: int, channels_out: int) -> Shapes:
        """One 3x3 kernel."""
        return {"conv/kernel": (3, 3, channels_in, channels_out)}

    def norms(self) -> tuple[str, ...]:
        """One."""
        return ("bn",)

    def __call__(self, weights, norms, state):
        """Convolves and normalises; no activation follows."""
        x = tf.nn.relu(state.whole) if self.relu_first else state.whole
        return norms("bn", functional.convolution(x, weights["conv/kernel"], (self.stride,) * 2))


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """Where a cell stands and how wide it is."""

    channels: int
    reduction: bool
    reduction_before: bool


def cell_plans(
    num_cells: int, init_channels: int, reduction_before_first: bool = False
) -> list[CellPlan]:
    """The cells of a network: reductions at one and two thirds, the channels doubled at each.

    Args:
        num_cells: Number of cells; reductions stand at num_cells // 3 and 2 * num_cells // 3.
        init_channels: Channels of the nodes of the first cells.
        reduction_before_first: Whether the stem's two outputs differ in size by 2 (ImageNet).
    """
    plans, channels, reduction_before = [], init_channels, reduction_before_first
    for index in range(num_cells):
        reduction = index in (num_cells // 3, 2 * num_cells // 3)
        channels *= 2 if reduction else 1
        plans.append(CellPlan(channels, reduction, reduction_before))
        reduction_before = reduction
    return plans


class Classifier(keras.layers.Layer):
    """Global average pooling and a linear layer; weights and bias uniform in +-1 / sqrt(fan in).

    Args:
        channels: Channels of the input.
        num_classes: Number of classes.

    Input: (batch, height, width, channels). Output: (batch, num_classes) logits.
    """

    def __init__(self, channels: int, num_classes: int, name: str | None = None):
        super().__init__(name=name, autocast=False)
        bound = channels**-0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=(channels, num_classes),
            initializer=kernel_initializer(),
            autocast=False,
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(num_classes,),
            initializer=keras.initializers.RandomUniform(-bound, bound),
            autocast=False,
        )
        self.built = True

    def named_parameters(self) -> dict[str, View]:
        """kernel and bias."""
        return {v.name: View(v, 0, tuple(v.shape)) for v in (self.kernel, self.bias)}

    def named_statistics(self) -> dict[str, View]:
        """None."""
        return {}

    def call(self, x):
        """Pools and classifies, in the type of the weights: losses are computed from it."""
        pooled = linear(tf.reduce_mean)(linear(tf.cast)(x, self.variable_dtype), [1, 2])
        logits = bilinear(tf.matmul)(pooled, read(self.kernel))
        return total([logits, linear(tf.broadcast_to)(read(self.bias), tf.shape(value(logits)))])


def by_path(parts: dict[str, keras.layers.Layer], method: str) -> dict:
    """What a method of every part returns by name, the part's name in front: "cell0/pre0/..."."""
    return {
        f"{prefix}/{key}": value
        for prefix, part in parts.items()
        for key, value in getattr(part, method)().items()
    }


def positive(**numbers: int) -> list[int]:
    """The numbers in their order, as ints.

    Raises:
        InputError: One is no whole number of 1 or more; the message names it.
    """
    return [whole_number(name, number) for name, number in numbers.items()]


def check_image_shape(image_shape: tuple[int, int, int], halvings: int) -> tuple[int, int, int]:
    """Checks that images are large enough.

    Args:
        image_shape: (height, width, channels).
        halvings: How often the network halves height and width.

    Raises:
        InputError: The shape is not three positive integers, or a side is under 8 px or under 2 **
            halvings.
    """
    try:
        height, width, channels = image_shape
        shape = tuple(positive(height=height, width=width, channels=channels))
    except (TypeError, ValueError) as error:
        raise InputError(
            "image_shape must be (height, width, channels), three positive integers. "
            f"Received: {image_shape!r}."
        ) from error
    least = max(MINIMUM_IMAGE_SIZE, 2**halvings)
    if min(shape[:2]) < least:
        raise InputError(
            f"Images of {shape[0]}x{shape[1]} px are too small: this network halves them "
            f"{halvings} times and "
            f"needs at least {least} px in height and width. Resize the images or use fewer "
            "reductions."
        )
    return shape


def check_images(x: tf.Tensor, image_shape: tuple[int, int, int]) -> None:
    """Checks a batch against the shape that the network was made for.

    Raises:
        InputError: It has other channels or another size, or what it has is not known.
    """
    if x.shape.rank is None or None in x.shape[1:]:
        # What is traced of it would not fit the images of known size that come after.
        raise InputError(
            f"The network was made for images of shape {image_shape} (height, width, channels). "
            f"Received a batch of no known height, width or channels: {x.shape}. Tell them: "
            f"dataset.map(lambda x, y: (tf.ensure_shape(x, {(None, *image_shape)}), y))."
        )
    received = tuple(x.shape)[1:]
    if received != tuple(image_shape):
        raise InputError(
            f"The network was made for images of shape {image_shape} (height, width, "
            "channels). Received a "
            f"batch of shape {tuple(x.shape)}. Make the network with image_shape={received}."
        )
