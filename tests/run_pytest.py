"""The script of Bazel's test targets: runs pytest on the files that it is given."""

import sys

import pytest

if __name__ == "__main__":
    # The checkout is installed editable: an import of a file that the target does not declare would
    # be answered from there.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable__")
    ]
    # Bazel's copy of the sources is read-only.
    sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]]))
