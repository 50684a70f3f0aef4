"""What a running job shows: a bar on a terminal, plain lines in a pipe, nothing where the log is the output.

A terminal that goes away never hurts the job: every write to it may fail.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from ubq.figures import duration
from ubq.i18n import gettext as _
from ubq.jobs.state import StageState
from ubq.plaintext import printable
from ubq.states import phase_word

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Console(Protocol):
    """Where a job's lines and progress go."""

    def line(self, message: str) -> None: ...
    def progress(self, entry: StageState) -> None: ...
    def close(self) -> None: ...


def figures(entry: StageState) -> str:
    """Loss, rate, ETA and phase of a stage in one short line."""
    parts = [phase_word(entry.phase, entry.name)] if entry.phase else []
    if entry.loss is not None:
        parts.append(_("loss {loss:.4g}").format(loss=entry.loss))
    if entry.rate:
        parts.append(_("{rate:.3g} steps/s").format(rate=entry.rate))
    if entry.eta is not None:
        parts.append(_("ETA {time}").format(time=duration(entry.eta)))
    return "  ".join(parts)


class QuietConsole:
    """Shows nothing."""

    def line(self, message: str) -> None:
        pass

    def progress(self, entry: StageState) -> None:
        pass

    def close(self) -> None:
        pass


class PlainConsole:
    """Plain lines: a progress line at most every ``interval`` seconds."""

    def __init__(self, stream: IO[str], interval: float = 10.0) -> None:
        self._stream = stream
        self._interval = interval
        self._next = time.monotonic() + interval

    def line(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(printable(message), file=self._stream, flush=True)

    def progress(self, entry: StageState) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        self.line(progress_line(entry))

    def close(self) -> None:
        pass


def progress_line(entry: StageState) -> str:
    """``autoencoder 120/400 (30 %)  loss 0.031  ETA 2 min 10 s``."""
    share = f" ({100 * entry.step // entry.steps} %)" if entry.steps else ""
    return f"{entry.name} {entry.step}/{entry.steps}{share}  {figures(entry)}".rstrip()


class BarConsole:
    """A Rich progress bar for each stage, lines above it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._broken = False

    def _start(self) -> Progress:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn

        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            console=RichConsole(file=self._stream),
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        bars.start()
        return bars

    def line(self, message: str) -> None:
        if self._broken:
            return
        try:
            if self._bars is not None:
                self._bars.console.print(printable(message), markup=False, highlight=False, soft_wrap=True)
            else:
                print(printable(message), file=self._stream, flush=True)
        except (OSError, ValueError):
            self._broken = True

    def progress(self, entry: StageState) -> None:
        if self._broken:
            return
        try:
            if self._bars is None:
                self._bars = self._start()
            if entry.name != self._stage:
                if self._task is not None:
                    self._bars.remove_task(self._task)
                self._task, self._stage = self._bars.add_task(entry.name, total=1, figures=""), entry.name
            assert self._task is not None
            self._bars.update(self._task, completed=entry.step, total=max(entry.steps, 1), figures=figures(entry))
        except (OSError, ValueError):
            self._broken = True

    def close(self) -> None:
        if self._bars is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bars.stop()
            self._bars = None


def console_for(stream: IO[str] | None = None, log: Path | None = None) -> Console:
    """The console for an output stream: a bar on a terminal, nothing where the stream is the run's own log."""
    stream = stream or sys.stderr
    with contextlib.suppress(OSError, ValueError):
        if log is not None and log.exists() and os.path.samestat(os.fstat(stream.fileno()), log.stat()):
            return QuietConsole()
    with contextlib.suppress(OSError, ValueError):
        if stream.isatty() and os.environ.get("TERM") != "dumb":
            return BarConsole(stream)
    return PlainConsole(stream)
