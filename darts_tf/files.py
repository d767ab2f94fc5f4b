"""Writing files: a reader finds the old one or the new one, whole, whatever happens meanwhile."""

import contextlib
import errno
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from darts_tf.errors import InputError

PARTIAL = "partial."
"""What the name of a file begins with until it is complete; a random number follows."""

_LEFT = re.compile(re.escape(PARTIAL) + r"[0-9a-f]{16}\.(.+)")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], needed: int | None = None) -> Iterator[Path]:
    """A path beside the file, to be written to; at the end it takes the file's place, at once.

    What was written is on the disk before it has the name, and the name before this returns: also
    after a power cut the name stands for the old content or the new one. A process that is killed
    within leaves the old file, and another that `left_of` knows. Of two that write the same file at
    once, the last to end has its content there.

    Args:
        path: The file, in a folder that exists.
        needed: Bytes that it will have, for the error.

    Raises:
        InputError: The file system refuses; the message names the file and the bytes.
    """
    path = Path(path)
    # In the same folder, because only within one file system is the replacement atomic; and with
    # the same end, because there are writers that want to see it.
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}.{path.name}")
    try:
        # As `tempfile.mkstemp`, which would keep the file from all other users: nothing that is
        # there is taken, and no link followed.
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise cannot_write(path, error, needed) from error
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and "errno = " not in str(error):
            raise  # but that is how HDF5 tells of the file system
        raise cannot_write(path, error, needed) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def left_of(path: Path) -> str | None:
    """The name of the file that a killed process was writing here; None if it was none of ours."""
    found = _LEFT.fullmatch(path.name)
    return found[1] if found and path.is_file() and not path.is_symlink() else None


def remove_left(folder: Path) -> None:
    """Removes from a folder what killed processes were writing; nobody may be writing there."""
    for path in folder.glob(PARTIAL + "*"):
        if left_of(path):
            path.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file, atomically (see `replacing`); text as UTF-8."""
    content = content.encode() if isinstance(content, str) else content
    with replacing(path, len(content)) as partial:
        partial.write_bytes(content)


def append(path: str | os.PathLike[str], line: str) -> None:
    """Adds a line at the end of a file, and has it on the disk before it returns.

    What goes down meanwhile may leave a part of the line, without the end of a line.

    Raises:
        InputError: The file system refuses.
    """
    content = line.encode() + b"\n"
    try:
        way = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with open(os.open(path, way, 0o666), "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error, len(content)) from error


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, and those that it is in, where they are missing.

    Raises:
        InputError: The file system refuses.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def checked_new_folder(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder that is not there yet, or empty.

    Raises:
        InputError: It is something else.
    """
    absolute = Path(path).absolute()
    if os.path.lexists(absolute) and (not absolute.is_dir() or any(absolute.iterdir())):
        raise InputError(f"{path} exists and is no empty folder. Name another folder to export to.")
    return absolute


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to make a folder at; what it holds stands in `path` at the end, if nothing was raised.

    Its name is one that nobody has. A folder that was not there appears whole, at once. One that
    was there, and is empty, stays the same folder (it may be the working directory, or another file
    system), and gets what was written, the files of its first level last.

    Args:
        path: As `checked_new_folder` returns it.

    Raises:
        OSError: The file system refuses.
    """
    path = Path(path)
    stays = path.is_dir()
    if not stays:
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path if stays else path.parent) as home:
        # Not that folder itself, which only its owner may read.
        made = Path(home, "new")
        yield made
        if not stays:
            os.replace(made, path)
            return
        for part in sorted(made.iterdir(), key=Path.is_file):
            os.replace(part, path / part.name)


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSALS = _NO_ROOM | {errno.EROFS, errno.EACCES, errno.EPERM}
"""What a file system answers that the user can mend."""


def cannot_write(
    path: str | os.PathLike[str], error: Exception, needed: int | None = None
) -> InputError:
    """The answer to a file that the file system refuses: which, why, and what to do.

    Args:
        path: The file.
        error: An OSError, or HDF5's RuntimeError.
        needed: Bytes that it would have had.
    """
    path = Path(path)
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):
        number = int(found[1])
    why = os.strerror(number) if number else str(error)
    if number in _NO_ROOM:
        size = f" It needs {needed:,} bytes" if needed is not None else " It needs more bytes"
        with contextlib.suppress(OSError):
            size += f"; {shutil.disk_usage(path.parent).free:,} are free there"
        remedy = f"{size}. Make room (or raise the limit of file sizes), and do the same again."
    elif number == errno.ELOOP:
        remedy = " It is a link, and links are not followed. Remove it, or name another folder."
    elif number == errno.EROFS:
        remedy = " Make the file system writable, and do the same again."
    else:
        remedy = " Give a file in a folder that exists and that you may write to."
    return InputError(f"Cannot write {path}: {why}.{remedy}")


def size_of(variables: Iterable) -> int:
    """Bytes of the values of variables, about what a file of them needs."""
    return sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)


def _flush(path: Path) -> None:
    """Has a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
