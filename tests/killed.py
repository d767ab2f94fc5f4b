"""Runs a program and ends it at a moment: python -m tests.killed MOMENT PROGRAM [FLAG ...]

MOMENT is what happens and, after a colon, when, counted from the start of this process:

    terminated:N  SIGTERM while the Nth checkpoint is written
    interrupted:N SIGINT within the Nth step
    twice:N       SIGINT twice when half of the Nth checkpoint is written, which then waits
    half:N        SIGKILL when half of the Nth checkpoint is written
    whole:N       SIGKILL when the Nth checkpoint is written, before it has its name
    named:N       SIGKILL when the Nth checkpoint has its name, before those too many are removed
    record:N      SIGKILL within the Nth line that is added to metrics.jsonl or times.jsonl
    alphas:N      SIGKILL before alphas.npz is replaced for the Nth time
    seconds:S     SIGKILL S seconds after the training began

A process that frees what it holds before it ends, which may take long, says "unloads".
"""

import atexit
import importlib
import os
import signal
import sys
import threading
from pathlib import Path

import keras

from darts_tf import files
from darts_tf.bin import common
from darts_tf.training import signals


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def arrange(kind: str, when: str) -> None:
    """Has this process struck at the moment."""
    count = 0
    flush, append, enter = files._flush, files.append, signals.Signals.__enter__
    begin = keras.callbacks.CallbackList.on_train_batch_begin

    def is_time(wanted) -> bool:
        nonlocal count
        count += bool(wanted)
        return bool(wanted) and count == int(when)

    def struck_flush(path: Path):
        checkpoint = path.name.startswith(files.PARTIAL) and path.name.endswith(".checkpoint")
        if kind == "terminated" and is_time(checkpoint):
            os.kill(os.getpid(), signal.SIGTERM)
        if kind in ("half", "twice") and is_time(checkpoint):
            os.truncate(path, path.stat().st_size // 2)
            if kind == "half":
                kill()
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait()
        if kind == "whole" and is_time(checkpoint):
            kill()
        if kind == "named" and is_time(path.name == "checkpoints"):
            kill()
        if kind == "alphas" and is_time(files.left_of(path) == "alphas.npz"):
            kill()
        flush(path)

    def struck_begin(self, batch, logs=None):
        begin(self, batch, logs)
        if kind == "interrupted" and is_time(True):
            os.kill(os.getpid(), signal.SIGINT)

    def struck_append(path, line):
        if kind == "record" and is_time(True):
            with open(path, "a", encoding="utf-8") as file:
                file.write(line[: len(line) // 2])
            kill()
        append(path, line)

    def struck_enter(self):
        if kind == "seconds":
            timer = threading.Timer(float(when), kill)
            timer.daemon = True
            timer.start()
        return enter(self)

    files._flush, files.append = struck_flush, struck_append
    signals.Signals.__enter__ = struck_enter
    keras.callbacks.CallbackList.on_train_batch_begin = struck_begin


if __name__ == "__main__":
    moment, name, *sys.argv[1:] = sys.argv[1:]
    atexit.register(print, "unloads", flush=True)
    if moment != "never":
        arrange(*moment.split(":"))
    program = importlib.import_module(f"darts_tf.bin.{name}")
    sys.exit(common.run(program.__doc__, program.define_flags, program.main))
