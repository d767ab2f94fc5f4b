"""Data: image sets and texts, augmentation, and resumable streams of paired batches."""

from darts_tf.data.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    default_augmentation,
)
from darts_tf.data.imagenet import ImageNetStreams, StreamedImages, imagenet_streams
from darts_tf.data.normalization import normalization, published_normalization
from darts_tf.data.pairing import Pairing, pair
from darts_tf.data.sources import ImageData, load_images, search_split
from darts_tf.data.splitting import split
from darts_tf.data.streams import ArrayStream, DatasetStream, evaluation_batches
from darts_tf.data.text import Corpus, Vocabulary, builtin_corpus, load_corpus
from darts_tf.data.windows import PairedWindows, TrainWindows, evaluation_windows

__all__ = [
    "NO_AUGMENTATION",
    "ArrayStream",
    "Augmentation",
    "Corpus",
    "DatasetStream",
    "ImageData",
    "ImageNetStreams",
    "PairedWindows",
    "Pairing",
    "StreamedImages",
    "TrainWindows",
    "Vocabulary",
    "builtin_corpus",
    "default_augmentation",
    "evaluation_batches",
    "evaluation_windows",
    "imagenet_streams",
    "load_corpus",
    "load_images",
    "normalization",
    "pair",
    "published_normalization",
    "search_split",
    "split",
]
