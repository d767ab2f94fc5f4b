"""One process at a time in a work folder.

The operating system holds the lock and drops it when its process ends, however that ends: what is
left of a killed one is a file that says who it was, and the next one takes over. The lock reaches
across machines where the file system's do: NFS, SMB, CephFS, Lustre mounted with `flock`. Where the
file system has no locks, what the file says decides: a process of this machine is looked for, one
of another machine is believed to live. Where it has them for each machine by itself (NFS with
`nolock`, Lustre with `localflock`), two machines are not kept apart.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import stat
from collections.abc import Iterator

from darts_tf import files
from darts_tf.errors import InputError

NAME = ".lock"


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Within it no other process can hold the folder.

    Args:
        folder: The folder, which exists.

    Raises:
        InputError: Another process holds it; its machine and number are named.
    """
    path = folder / NAME
    try:
        # Not truncated: until the lock is had, what it says is the other's.
        way = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = os.fdopen(os.open(path, way, 0o666), "r+", encoding="utf-8")
    except OSError as error:
        raise files.cannot_write(path, error) from error
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise InputError(
                f"{path} is not a file of this folder alone, so it cannot be its lock. Remove it, "
                "or name another folder with --workdir."
            )
        holder = _read(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(folder, holder) from error
        except OSError as error:  # the file system has no locks
            if holder and _lives(holder):
                raise _in_use(folder, holder, f" If it has ended, remove {path}.") from error
        if holder:
            print(
                f"work folder  taken over from process {holder['process']} on {holder['host']}, "
                "which did not end by itself",
                flush=True,
            )
        own = {"host": socket.gethostname(), "process": os.getpid(), "started": _started("self")}
        try:
            _write(file, json.dumps(own))
        except OSError as error:
            raise files.cannot_write(path, error, len(json.dumps(own))) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                _write(file, "")


def _write(file, content: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(content)
    file.flush()


def _read(file) -> dict | None:
    """Who holds or held the lock; None if nobody, or if it cannot be read."""
    try:
        holder = json.loads(file.read(10_000))
        holder = {name: holder[name] for name in ("host", "process", "started")}
        return holder if isinstance(holder["process"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _lives(holder: dict) -> bool:
    """Whether a holder may still be there; one of another machine is."""
    if holder["host"] != socket.gethostname():
        return True
    return holder["started"] is not None and _started(holder["process"]) == holder["started"]


def _started(process: int | str) -> str | None:
    """When a process of this machine started, in ticks since the machine did; None of no process.

    The number alone would not do: numbers are used again.
    """
    try:
        line = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return line.rpartition(")")[2].split()[19]


def _in_use(folder: pathlib.Path, holder: dict | None, more: str = "") -> InputError:
    who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
    return InputError(
        f"The work folder {folder} is in use by {who}. Wait for it or stop it, or name another "
        f"folder with --workdir.{more}"
    )
