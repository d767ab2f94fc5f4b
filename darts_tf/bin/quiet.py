"""Keeps the notes that TensorFlow writes while it is imported off a program's terminal.

They are written by its C++ libraries, before any setting of theirs is read, so the file descriptor
is diverted. Whatever else is written there meanwhile is passed on.
"""

import contextlib
import importlib.abc
import importlib.machinery
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_NOTE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:\d\d"
)
_ERRORS = 2  # the file descriptor of stderr


def quiet_tensorflow() -> None:
    """Has TensorFlow's notes dropped whenever it is imported in this process."""
    # Its later notes; read when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            terminal = stack.enter_context(open(os.dup(_ERRORS), "wb"))
            written = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # there is no stderr, or no place for a file: notes are no reason to end
            yield
            return
        sys.stderr.flush()
        os.dup2(written.fileno(), _ERRORS)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), _ERRORS)
            written.seek(0)
            terminal.writelines(line for line in written if not _NOTE.match(line))


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def quietly(module):
                with _without_notes():
                    execute(module)

            spec.loader.exec_module = quietly
        return spec
