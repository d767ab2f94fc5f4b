"""SIGTERM and SIGINT during a training: it stops after its step, or at once by a second SIGINT."""

import os
import signal
import threading

INTERRUPTED = 130
"""The exit code of a process that a second SIGINT ends."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Within it the two signals are remembered instead of ending the process.

    Python runs a handler only between two of its own instructions, so not within a step, which may
    take a minute. A thread therefore reads the signals too, as they come.

    Attributes:
        received: The name of the first signal, or None.
    """

    def __init__(self):
        self.received: str | None = None

    def __enter__(self):
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._writable, False)  # as set_wakeup_fd demands
        self._wakeup_before = signal.set_wakeup_fd(self._writable, warn_on_full_buffer=False)
        self._before = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writable)
        self._thread.join()
        os.close(self._readable)

    def _handle(self, number, frame):
        self.received = self.received or signal.Signals(number).name

    def _listen(self):
        first = True
        while numbers := os.read(self._readable, 1):
            if numbers[0] not in _SIGNALS:
                continue
            if not first and numbers[0] == signal.SIGINT:
                os.write(
                    2, b"interrupted twice: ended at once; the last checkpoint is as it was.\n"
                )
                os._exit(INTERRUPTED)
            first = False
            self._handle(numbers[0], None)
