"""What a newcomer types; nothing is installed here, .ci/run does that."""

import os
import re
import shutil
import subprocess

import pytest

from tests.rooms import REPOSITORY

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess:
    # Under `make -n test` these calls of make would only print, too.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return subprocess.run(
        ["make", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )


@needs_make
def test_search_runs_the_quick_start_in_the_folder_that_was_asked_for():
    ran = make("--dry-run", "search", "WORKDIR=elsewhere/run")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == (
        ".venv/bin/python -m darts_tf.bin.pipeline --flagfile=flags/quickstart_digits.flags "
        "--workdir='elsewhere/run'"
    )
    assert (REPOSITORY / "flags/quickstart_digits.flags").is_file()


@needs_make
def test_wrong_interpreter_is_refused_in_one_sentence(tmp_path):
    old = tmp_path / "python3"
    # What the Makefile asks of it: whether its version will do, then its version.
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    ran = make("-C", str(tmp_path), "environment", f"PYTHON={old}")
    assert ran.returncode != 0
    assert "needs Python 3.10 to 3.13, but" in ran.stderr and "is Python 3.9.1." in ran.stderr
    assert not (tmp_path / ".venv").exists()


def test_gpu_requirements_are_those_of_the_project():
    project = (REPOSITORY / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)[1]
    wanted = re.findall(r'^ *"(.+)",$', listed, re.MULTILINE)
    pinned = (REPOSITORY / "requirements.txt").read_text().splitlines()
    pinned = [line for line in pinned if line and not line.startswith("#")]
    assert wanted and pinned == [
        re.sub("^tensorflow>", "tensorflow[and-cuda]>", line) for line in wanted
    ]
