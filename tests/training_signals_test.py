"""Signals during a training; processes of their own, because a second SIGINT ends its process."""

import os
import signal
import subprocess
import sys

import pytest

from darts_tf.training.signals import INTERRUPTED, Signals
from tests.programs import ROOT

# A step that no handler of Python can break into: it waits, in C, for what the test sends last.
PROGRAM = """
import signal, threading
from darts_tf.training.signals import Signals

class Told(Signals):
    def _handle(self, number, frame):
        super()._handle(number, frame)
        if threading.current_thread() is not threading.main_thread():
            print("received", self.received, flush=True)

# Before there is another thread, which would not have it blocked.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
with Told() as signals:
    print("begin", flush=True)
    signal.sigwait([signal.SIGUSR1])
    print("step done", signals.received, flush=True)
print("handlers are back", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
"""


def sent(*numbers):
    """(exit code, what was said) of the program after these signals within its step, in order."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = [process.stdout.readline()]
    for number in numbers:
        process.send_signal(number)
        said.append(process.stdout.readline())
    if numbers[1:] != (signal.SIGINT,):
        process.send_signal(signal.SIGUSR1)
    rest, _ = process.communicate(timeout=60)
    assert said[0] == "begin\n"
    return process.returncode, said[1:], rest.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_until_the_step_is_done(number):
    name = signal.Signals(number).name
    assert sent(number) == (
        0,
        [f"received {name}\n"],
        [f"step done {name}", "handlers are back True"],
    )


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_interrupt_ends_the_process_within_its_step(first):
    code, said, rest = sent(first, signal.SIGINT)
    assert code == INTERRUPTED == 130
    assert said == [
        f"received {signal.Signals(first).name}\n",
        "interrupted twice: ended at once; the last checkpoint is as it was.\n",
    ]
    assert rest == []


def test_a_second_termination_changes_nothing():
    code, said, rest = sent(signal.SIGINT, signal.SIGTERM)
    assert (code, said, rest[0]) == (0, ["received SIGINT\n"] * 2, "step done SIGINT")


def test_what_was_set_before_is_given_back():
    def mine(number, frame):
        raise AssertionError("not within")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
