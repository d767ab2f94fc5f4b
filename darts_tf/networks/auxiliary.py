"""The auxiliary head: a second classifier on an inner cell, for training only."""

import dataclasses

import keras
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.networks.skeleton import Classifier
from darts_tf.space.block import Block, OfWhole
from darts_tf.space.layout import View
from darts_tf.space.primitives import Shapes

HIDDEN_CHANNELS = 128
FEATURES = 768
PUBLISHED_POOLS = {8: (5, 3), 7: (5, 2)}
"""Size of the input: (size, stride) of the average pool. 8 is CIFAR's cell, 7 ImageNet's."""


def pool_to_2(size: int) -> tuple[int, int]:
    """Size and stride of the pool that makes 2 of `size` pixels: as published, else its halves."""
    stride = size // 2
    return PUBLISHED_POOLS.get(size, (size - stride, stride))


@dataclasses.dataclass(frozen=True)
class AuxiliaryConvolution(OfWhole):
    """A convolution without padding, BatchNorm if wanted, ReLU; the function of a block."""

    size: int
    normalise: bool = True

    def kernels(self, channels_in: int, channels_out: int) -> Shapes:
        """One square kernel."""
        return {"conv/kernel": (self.size, self.size, channels_in, channels_out)}

    def norms(self) -> tuple[str, ...]:
        """At most one."""
        return ("bn",) if self.normalise else ()

    def __call__(self, weights, norms, state):
        """Convolution [- BatchNorm] - ReLU."""
        h = tf.nn.conv2d(state.whole, weights["conv/kernel"], 1, "VALID")
        return tf.nn.relu(norms("bn", h) if self.normalise else h)


class AuxiliaryHead(keras.layers.Layer):
    """ReLU, average pool to 2x2, 1x1 convolution, 2x2 convolution, linear.

    Args:
        channels: Channels of the input.
        num_classes: Number of classes.
        size: (height, width) of the input, at least 2 x 2.
        stem: "cifar" or "imagenet". With "imagenet" the 2x2 convolution has no BatchNorm: the
            authors left
            it out by mistake and keep it so, to agree with the paper's runs.

    Input: (batch, height, width, channels). Output: (batch, num_classes) logits.

    Raises:
        InputError: The input is smaller than 2 x 2.
    """

    def __init__(
        self, channels: int, num_classes: int, size: list[int], stem: str, name: str | None = None
    ):
        super().__init__(name=name, autocast=False)
        if min(size) < 2:
            raise InputError(
                "The auxiliary head needs at least 2x2 px, and the cell it would read is "
                f"{size[0]}x{size[1]}. Use larger images, fewer reductions, or no auxiliary head."
            )
        self.pools = [pool_to_2(side) for side in size]
        self.convolutions = [
            Block(AuxiliaryConvolution(1), channels, HIDDEN_CHANNELS, True, name="stage1"),
            Block(
                AuxiliaryConvolution(2, stem == "cifar"),
                HIDDEN_CHANNELS,
                FEATURES,
                True,
                name="stage2",
            ),
        ]
        self.classifier = Classifier(FEATURES, num_classes, name="classifier")
        self.built = True

    def named_parameters(self) -> dict[str, View]:
        """The trainable weights by path."""
        return {
            f"{layer.name}/{key}": variable
            for layer in (*self.convolutions, self.classifier)
            for key, variable in layer.named_parameters().items()
        }

    def named_statistics(self) -> dict[str, View]:
        """The running statistics by path."""
        return {
            f"{layer.name}/{key}": place
            for layer in self.convolutions
            for key, place in layer.named_statistics().items()
        }

    def call(self, x, training=False):
        """Computes the logits."""
        sizes, strides = zip(*self.pools, strict=True)
        h = tf.nn.avg_pool2d(tf.nn.relu(x), sizes, strides, "VALID")
        for convolution in self.convolutions:
            h = convolution(h, training=training)
        return self.classifier(h)
