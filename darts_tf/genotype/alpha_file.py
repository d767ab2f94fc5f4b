"""The architecture parameters of a search in a file, `alphas.npz`: read with nothing executed."""

import io
import math
import os
import zipfile

import numpy as np

from darts_tf.errors import InputError
from darts_tf.reading import MEBIBYTE, read_bytes

LARGEST = 256 * MEBIBYTE
"""Bytes of a file, and of all its arrays: 290,000 epochs of the published search."""

MOST_ARRAYS = 1000
"""One for each alpha, and the epochs: a user's network may have an alpha for every edge."""

REMEDY = "Give the alphas.npz of a search's work folder."


def check_size(arrays: int, size: int) -> None:
    """Checks that what is to be written can be read back.

    Args:
        arrays: How many there are.
        size: Bytes of all.

    Raises:
        InputError: It cannot.
    """
    size += arrays * 1000  # of what stands around each
    if arrays > MOST_ARRAYS or size > LARGEST:
        raise InputError(
            f"The alphas of all epochs would be {arrays} arrays and {size:,} bytes; files of at "
            f"most {MOST_ARRAYS} arrays and {LARGEST:,} bytes are read back. Record fewer epochs, "
            "or save the alphas in a callback of your own."
        )


def load_alphas(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; what they mean is not checked.

    The headers are looked at before an array is made: a small file may declare, or unpack to, more
    than there is memory. Arrays of Python objects, which NumPy would unpickle, are refused.

    Args:
        path: A file as `AlphaHistory` and `numpy.savez` write it, compressed or not.

    Returns:
        Arrays of booleans, integers or floating point numbers.

    Raises:
        InputError: The file cannot be read, is another kind of file, or too large.
    """
    content = read_bytes(path, "alphas", REMEDY, LARGEST)
    try:
        if not content.startswith(
            (b"PK\x03\x04", b"PK\x05\x06")
        ):  # An archive may follow anything; alphas do not.
            raise zipfile.BadZipFile
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _arrays(archive)
    except InputError as error:
        raise InputError(f"{os.fspath(path)} cannot be used: {error} {REMEDY}") from error
    except Exception as error:  # Whatever a damaged archive provokes, the answer is the same.
        raise InputError(
            f"{os.fspath(path)} is not an .npz file of NumPy arrays, or it is damaged. {REMEDY}"
        ) from error


def _arrays(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if len(members) > MOST_ARRAYS:
        raise InputError(f"it holds {len(members)} arrays, and at most {MOST_ARRAYS} are expected.")
    arrays, left = {}, LARGEST
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in arrays:
            raise InputError(f"it holds {name[:60]!r} twice.")
        with archive.open(member) as file:
            # Not what the archive says of its size, which need not be true.
            content = file.read(left + 1)
        if len(content) > left:
            raise InputError(f"its arrays unpack to more than {LARGEST} bytes.")
        left -= len(content)
        arrays[name] = _array(name, content)
    return arrays


def _array(name: str, content: bytes) -> np.ndarray:
    """The array of an .npy file, whose header is not believed."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read_header:
        raise InputError(f"array {name[:60]!r} has a format of .npy that alphas never have.")
    shape, _, dtype = read_header[version](file)
    if dtype.kind not in "biuf":
        raise InputError(f"array {name[:60]!r} holds {str(dtype)[:60]}, not numbers.")
    there = len(content) - file.tell()
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != there:
        raise InputError(
            f"array {name[:60]!r} says that it has shape {str(shape)[:60]}, "
            f"but holds {there} bytes."
        )
    return np.load(io.BytesIO(content), allow_pickle=False)
