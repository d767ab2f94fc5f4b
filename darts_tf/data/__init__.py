"""Data: image sets by name, augmentation, and resumable streams of paired batches."""

from darts_tf.data.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    Statistics,
    default_augmentation,
)
from darts_tf.data.imagenet import ImageNetStreams, StreamedImages, imagenet_streams
from darts_tf.data.pairing import Pairing, pair
from darts_tf.data.sources import ImageData, load_images, search_split
from darts_tf.data.streams import ArrayStream, DatasetStream, evaluation_batches

__all__ = [
    "NO_AUGMENTATION",
    "ArrayStream",
    "Augmentation",
    "DatasetStream",
    "ImageData",
    "ImageNetStreams",
    "Pairing",
    "Statistics",
    "StreamedImages",
    "default_augmentation",
    "evaluation_batches",
    "imagenet_streams",
    "load_images",
    "pair",
    "search_split",
]
