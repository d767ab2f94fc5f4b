"""What the tests of the programs share: running one in this process, and tiny data sets."""

import hashlib
import json
import pathlib
import types

import numpy as np
import pytest

from darts_tf.bin import common
from tests.data_images_test import part, pictures, store

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = ROOT / "flags"


def run(program, *arguments):
    """Runs a program's module as its command line would; returns the exit code."""
    return common.run(
        program.__doc__, program.define_flags, program.main, [str(a) for a in arguments]
    )


@pytest.fixture(scope="module", autouse=True)
def at_the_root():
    """For a module that imports it: flagfiles name each other from the root of the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


def rows(folder):
    """The objects of a work folder's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def finished(program, folder, *arguments):
    """A finished run: its folder and the command that made it."""
    command = (*arguments, f"--workdir={folder}")
    assert run(program, *command) == 0
    return types.SimpleNamespace(folder=folder, command=command, program=program)


def store_cifar10(root, count=16):
    """A data set of that name and image size with few images of 3 classes."""
    splits = {"train": part(count, 1, side=32), "test": part(5, 2, side=32)}
    store(root, "cifar10", splits, (32, 32, 3), version="3.0.2")


def store_imagenet(root):
    """A data set of that name with few images of 3 classes and different sizes."""
    images = [pictures(1, side)[0] for side in (20, 30, 25, 40)]
    splits = {"train": (images, [0, 1, 2, 0]), "validation": (images[:3], [2, 1, 0])}
    store(root, "imagenet2012", splits, (None, None, 3), version="5.1.0")


def contents(folder):
    """The bytes of every file of a folder by path."""
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def alphas(folder):
    """The arrays of a search's alphas.npz."""
    with np.load(pathlib.Path(folder) / "alphas.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def digests(folder):
    """What a finished run left, by file; without times."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix in (".jsonl", ".json", ".npz", ".svg") and path.name != "times.jsonl":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for checkpoints in folder.rglob("checkpoints"):
        newest = max(checkpoints.glob("*.checkpoint"))
        manifest, values = newest.read_bytes().split(b"\n", 2)[1:]
        manifest = json.loads(manifest)
        assert manifest.pop("seconds") == 0
        found[str(newest.relative_to(folder))] = (manifest, hashlib.sha256(values).hexdigest())
    return found
