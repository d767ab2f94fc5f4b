"""One process at a time in a work folder; what a dead one leaves is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from darts_tf.bin import lock
from darts_tf.errors import InputError
from tests.programs import ROOT

HOLDER = """
import pathlib, sys
from darts_tf.bin import lock
with lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    """A process that holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def no_locks(monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("locks", [True, False])
def test_the_second_process_is_refused_and_told_of_the_first(locks, tmp_path, monkeypatch):
    if not locks:
        no_locks(monkeypatch)
    with holder(tmp_path) as first:
        who = f"is in use by process {first.pid} on {socket.gethostname()}. Wait for it or stop it"
        with pytest.raises(InputError) as refused, lock.held(tmp_path):
            raise AssertionError("held twice")
        assert f"The work folder {tmp_path} {who}" in str(refused.value)
        assert (str(tmp_path / ".lock") in str(refused.value)) is not locks
        first.communicate("")
        assert first.returncode == 0
    with lock.held(tmp_path):
        pass


@pytest.mark.parametrize("locks", [True, False])
def test_the_lock_of_a_dead_process_is_taken_over(locks, tmp_path, monkeypatch, capsys):
    if not locks:
        no_locks(monkeypatch)
    with holder(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
    assert json.loads((tmp_path / ".lock").read_text())["process"] == first.pid
    with lock.held(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert (
        f"taken over from process {first.pid} on {socket.gethostname()}" in capsys.readouterr().out
    )
    assert (tmp_path / ".lock").read_text() == ""


def test_a_number_that_was_used_again_is_not_the_holder(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    left = {"host": socket.gethostname(), "process": os.getpid(), "started": "1"}
    (tmp_path / ".lock").write_text(json.dumps(left))
    with lock.held(tmp_path):
        pass


def test_without_locks_a_process_of_another_machine_is_believed_to_live(tmp_path, monkeypatch):
    left = {"host": "elsewhere", "process": 1, "started": "1"}
    (tmp_path / ".lock").write_text(json.dumps(left))
    with monkeypatch.context() as patch:
        no_locks(patch)
        words = f"process 1 on elsewhere.* If it has ended, remove {tmp_path / '.lock'}"
        with pytest.raises(InputError, match=words), lock.held(tmp_path):
            raise AssertionError("held twice")
    with lock.held(tmp_path):  # where they are, nobody had it
        pass


def test_a_lock_that_cannot_be_read_is_nobodys(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\x00[")
    with lock.held(tmp_path):
        pass
