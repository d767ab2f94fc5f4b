"""What data was, in a few lines that can be compared: a run resumes on the same data only.

A fingerprint is {part: {unit: count, ..., content: digest, ...}}, ready for JSON: for example
{"training part": {"images": 5000, "pixels": "8f14...", "labels": "c4ca..."}}. It depends neither on
the folder nor on the machine.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from darts_tf.data.prepared import open_prepared
from darts_tf.data.sources import ImageData
from darts_tf.data.text import Corpus

Fingerprint = dict[str, dict[str, int | str]]

_PARTS = {
    "train": "training part",
    "validation": "validation part",
    "valid": "validation part",
    "test": "test part",
}
_DIGITS = 32
"""Hexadecimal digits of a digest: two sets that differ have the same one by chance in 2^128."""
_SAMPLED_FILES = 32
_SAMPLED_BYTES = 2**16


def of_images(image_data: ImageData, parts: Sequence[str]) -> Fingerprint:
    """The fingerprint of images in memory, all pixels and labels: 60,000 of CIFAR-10 take 0.3 s.

    Args:
        image_data: The data, as it is used: after `limit`.
        parts: Those that a run uses, of "train", "validation" and "test"; others are not touched.
    """
    found: Fingerprint = {"data set": {"class names": _digest_of_texts(image_data.class_names)}}
    for part in parts:
        images = getattr(image_data, f"{part}_images")
        if images is not None:
            labels = getattr(image_data, f"{part}_labels")
            found[_PARTS[part]] = {
                "images": len(images),
                "pixels": _digest(images),
                "labels": _digest(labels),
            }
    return found


def of_corpus(corpus: Corpus, parts: Sequence[str]) -> Fingerprint:
    """The fingerprint of a text: all its words, in their order.

    Args:
        corpus: The text, as it is used.
        parts: Those that a run uses, of "train", "valid" and "test"; others are not touched.
    """
    words = corpus.vocabulary.words
    found: Fingerprint = {"vocabulary": {"words": len(words), "spellings": _digest_of_texts(words)}}
    for part in parts:
        numbers = getattr(corpus, part)
        found[_PARTS[part]] = {"words": len(numbers), "text": _digest(numbers)}
    return found


def of_prepared(name: str, data_dir: str | os.PathLike | None = None) -> Fingerprint:
    """The fingerprint of a prepared data set that is streamed from disk; little of it is read.

    Args:
        name, data_dir: As of `open_prepared`.

    Returns:
        Of the splits train and validation the number of images, a digest of the names and sizes of
        their files, and one of the first 64 KiB of up to 32 of them.

    Raises:
        InputError: See `open_prepared`, or it is not image classification.
    """
    builder, (_, label_key) = open_prepared(name, data_dir)
    names = builder.info.features[label_key].names
    found: Fingerprint = {"data set": {"class names": _digest_of_texts(names)}}
    for split in ("train", "validation"):
        if split not in builder.info.splits:
            continue
        info = builder.info.splits[split]
        paths = sorted(map(os.fspath, info.filepaths))
        files = (f"{os.path.basename(p)} {tf.io.gfile.stat(p).length}" for p in paths)
        sample = hashlib.sha256()
        for path in paths[:: -(-len(paths) // _SAMPLED_FILES)]:
            with tf.io.gfile.GFile(path, "rb") as file:
                sample.update(file.read(_SAMPLED_BYTES))
        found[_PARTS[split]] = {
            "images": info.num_examples,
            "files": _digest_of_texts(files),
            "first images": sample.hexdigest()[:_DIGITS],
        }
    return found


def differences(saved: Mapping, own: Fingerprint) -> list[str]:
    """What differs between two fingerprints, a few words each.

    Args:
        saved: That of a run, as read from a file: it may be anything.
        own: That of the data at hand.
    """
    found = []
    for part in sorted({*saved, *own}):
        before, now = saved.get(part), own.get(part, {})
        before = before if isinstance(before, Mapping) else {}
        names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
        counts = [name for name in names if isinstance(now.get(name, before.get(name)), int)]
        if counts:  # of another number of examples the content differs, too
            found += [
                f"{_counted(now.get(name))} {name} in the {part}, was {_counted(before.get(name))}"
                for name in counts
            ]
        else:
            found += [f"other {name} in the {part}" for name in names]
    return found


def _counted(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "no"


def _digest(array: np.ndarray) -> str:
    """Of an array's shape, type and content."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str} ".encode())
    digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:_DIGITS]


def _digest_of_texts(texts: Iterable[str]) -> str:
    """Of texts in their order; where one ends counts."""
    content = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
