"""Stop on request: the first signal asks, the second leaves at once.

Exit codes follow the shells: 128 + the signal's number (SIGHUP 129, SIGINT 130, SIGTERM 143).

Slurm sends SIGTERM ahead of a time limit, at it, and when it preempts or cancels a job; what must go at last gets
SIGKILL. There only the first SIGTERM means anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from ubq.errors import EXIT_INTERRUPT
from ubq.plaintext import printable

SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))
_HANGUP = getattr(signal, "SIGHUP", None)


class StopSignals:
    """Catch the stop signals while in the ``with`` block (in the main thread; elsewhere nothing is caught).

    A signal that is ignored on entry stays ignored: ``nohup`` asks for that.

    Args:
        first: what to print on the first signal.
        second: what to print when leaving at once.
    """

    def __init__(self, first: str = "", second: str = "") -> None:
        self.received: int | None = None
        self._moment = 0.0
        self._first = first
        self._second = second
        self._previous: dict[int, object] = {}

    @property
    def exit_code(self) -> int:
        """Exit code of a process that stopped because of the first signal."""
        return EXIT_INTERRUPT if self.received is None else 128 + self.received

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._moment = number, time.monotonic()
            _say(self._first)
        elif number == self.received == _HANGUP and time.monotonic() - self._moment < 1.0:
            pass  # one lost terminal sends it twice: the kernel, and the shell to its jobs
        elif not said_again_by_slurm(number):
            _say(self._second)
            os._exit(128 + number)


def said_again_by_slurm(number: int) -> bool:
    """Whether a signal that comes after the first is Slurm's, so that it must not cut a save short."""
    return number == signal.SIGTERM and "SLURM_JOB_ID" in os.environ


def _say(message: str) -> None:
    # A handler may interrupt a print, so it must not go through the buffered stream; the terminal may be gone.
    if message:
        with contextlib.suppress(OSError):
            os.write(2, f"\n{printable(message)}\n".encode())
