"""The script of Bazel's test targets: runs pytest on the files that it is given."""

import sys

import pytest

if __name__ == "__main__":
    # Bazel's copy of the sources is read-only.
    sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]]))
