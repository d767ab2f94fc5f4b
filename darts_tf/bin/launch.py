"""Runs a program as several workers on this machine, as on several machines.

    python -m darts_tf.bin.launch --workers=2 -- search_cnn --flagfile=... --workdir=RUN

Each worker is a process with its place in TF_CONFIG and --strategy=multi_worker. Shown is what the
first one prints, and the errors of all. Signals are passed on to all. When one ends by an error or
is killed, the others are ended, and the exit code is that one's.
"""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

from absl import flags

from darts_tf.bin import common
from darts_tf.errors import InputError, unknown_name

PROGRAMS = ("pipeline", "search_cnn", "search_rnn", "train_cnn", "train_rnn")
PATIENCE = 10.0
"""Seconds that the other workers have to end by themselves when one has ended."""


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_integer(
        "workers", 2, "Number of workers.", lower_bound=1, upper_bound=64, flag_values=values
    )


def main(values: flags.FlagValues, command: list[str]) -> int:
    """Runs the workers until all have ended."""
    if not command:
        raise InputError(
            f"Name a program behind --: {', '.join(PROGRAMS)}; for example: python -m "
            "darts_tf.bin.launch --workers=2 -- search_cnn --workdir=RUN"
        )
    if command[0] not in PROGRAMS:
        raise unknown_name("program", command[0], PROGRAMS)
    return run_workers(
        [sys.executable, "-m", f"darts_tf.bin.{command[0]}", *command[1:], _STRATEGY],
        values.workers,
    )


_STRATEGY = "--strategy=multi_worker"


def run_workers(command: list[str], count: int) -> int:
    """Runs a command as so many workers; returns the exit code.

    Args:
        command: Program and arguments.
        count: Number of workers.
    """
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    workers: list[subprocess.Popen] = []

    def forward(number, frame):
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    before = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        for index in range(count):
            place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            worker = subprocess.Popen(
                command,
                env={**os.environ, "TF_CONFIG": json.dumps(place)},
                stdout=None if index == 0 else subprocess.DEVNULL,
                start_new_session=True,  # a terminal's interrupt comes once, from here
            )
            workers.append(worker)
            print(f"launch: worker {index} is process {worker.pid}", file=sys.stderr, flush=True)
        return _until_all_ended(workers)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _until_all_ended(workers: list[subprocess.Popen]) -> int:
    code, deadline, running = common.DONE, math.inf, True
    while running:
        running = None in [worker.poll() for worker in workers]  # asks all, whoever runs
        # Where several have ended, one that was killed is the cause and not a consequence.
        failed = sorted(
            (w.returncode > 0, index) for index, w in enumerate(workers) if w.returncode
        )
        if failed and code == common.DONE:
            index = failed[0][1]
            code = _exit_code(workers[index])
            if code != common.STOPPED:  # all stop after the same step
                killed = workers[index].returncode < 0
                print(
                    f"launch: worker {index} ended with exit code {code}"
                    + (f" (signal {-workers[index].returncode})" if killed else "")
                    + "; the others are ended.",
                    file=sys.stderr,
                    flush=True,
                )
                deadline = time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        if running:
            time.sleep(0.1)
    return code


def _exit_code(worker: subprocess.Popen) -> int:
    """As a shell tells it: 128 + the signal, of a worker that was killed."""
    return 128 - worker.returncode if worker.returncode < 0 else worker.returncode


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, rest = sys.argv[1:at], sys.argv[at + 1 :]
    sys.exit(common.run(__doc__, define_flags, lambda values: main(values, rest), own))
