"""Writing files: whole or not at all, and what is said of a file system that refuses."""

import errno
import os
import subprocess
import sys

import pytest

from darts_tf import files
from darts_tf.errors import InputError
from tests.programs import ROOT


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, "old")
    with files.replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old" and partial.suffix == ".txt"
        partial.write_text("new ä")
    assert path.read_text(encoding="utf-8") == "new ä"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_within_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, b"old")
    for error in (ZeroDivisionError, RuntimeError):
        with pytest.raises(error), files.replacing(path) as partial:
            partial.write_bytes(b"new")
            raise error("not of the file system")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_lines_are_added(tmp_path):
    path = tmp_path / "a.jsonl"
    files.append(path, "1")
    files.append(path, "ä")
    assert path.read_text(encoding="utf-8") == "1\nä\n"


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device. It needs 1,234 bytes; "),
        (OSError(errno.EFBIG, "x"), "File too large. It needs 1,234 bytes; "),
        (OSError(errno.EROFS, "x"), "Read-only file system. Make the file system writable"),
        (OSError(errno.EACCES, "x"), "Permission denied. Give a file in a folder that exists"),
        # As HDF5 says it, in two ways.
        (RuntimeError("Can't decrement id (errno = 28, x = 1)"), "No space left on device. It ne"),
        (OSError("Can't write data (file write failed: errno = 27)"), "File too large. It needs"),
    ],
)
def test_what_the_file_system_refuses_is_named_with_the_bytes(error, words, tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError) as refused, files.replacing(path, 1234):
        raise error
    assert str(refused.value).startswith(f"Cannot write {path}: {words}")
    if "bytes" in words:
        assert " are free there. Make room" in str(refused.value)


def test_a_limit_of_file_sizes_is_named(tmp_path):
    program = f"""
import resource
from darts_tf import files
files.write({str(tmp_path / "a")!r}, b"x" * 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    files.write({str(tmp_path / "a")!r}, b"y" * 300)
except files.InputError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "File too large. It needs 300 bytes" in ran.stdout, ran.stderr
    assert (tmp_path / "a").read_bytes() == b"x" * 100
    assert os.listdir(tmp_path) == ["a"]
