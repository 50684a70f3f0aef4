"""A run's growing files, read piece by piece: only what was added since the last look is parsed."""

from __future__ import annotations

import math
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from ubq.durable import open_regular, parse_json
from ubq.plaintext import printable

MAX_POINTS = 2048
"""Points kept of one curve; more than a terminal can show. Beyond it, neighbours become their mean."""
MAX_LINES = 2000
TAIL_BYTES = 256_000
"""How much of a long log is read at first."""


class GrowingFile:
    """New whole lines of a file that another process appends to.

    A file that became shorter, or is another one by its inode, is read from its start: a resumed run
    takes rows of lost steps out. ``restarted`` says so after a :meth:`lines` call.
    """

    def __init__(self, path: Path, tail: int | None = None) -> None:
        self.path = path
        self.restarted = False
        self._tail = tail
        self._position = 0
        self._inode = -1
        self._rest = b""

    def lines(self) -> list[str]:
        """Lines that are new; a torn last line waits for its end. A file that is not there has none."""
        self.restarted = False
        try:
            with open_regular(self.path) as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._position:
                    self.restarted = self._inode != -1
                    self._inode, self._position, self._rest = status.st_ino, 0, b""
                    if self._tail is not None and status.st_size > self._tail:
                        file.seek(status.st_size - self._tail)
                        file.readline()
                        self._position = file.tell()
                file.seek(self._position)
                data = file.read()
        except OSError:
            return []
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").removesuffix("\r") for line in lines]


@dataclass
class Curve:
    """A loss over the steps, thinned as it grows."""

    points: list[tuple[float, float]] = field(default_factory=list)
    _every: int = 1
    _pending: list[tuple[float, float]] = field(default_factory=list)

    def add(self, step: float, loss: float) -> None:
        self._pending.append((step, loss))
        if len(self._pending) < self._every:
            return
        self.points.append(_mean(self._pending))
        self._pending = []
        if len(self.points) > MAX_POINTS:
            self.points = [_mean(self.points[i : i + 2]) for i in range(0, len(self.points), 2)]
            self._every *= 2


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


class Metrics:
    """Training and validation losses of each stage, from ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self.train: dict[str, Curve] = {}
        self.validation: dict[str, Curve] = {}

    def read(self) -> bool:
        """Take in what is new; whether there was anything."""
        lines = self._file.lines()
        if self._file.restarted:
            self.train.clear()
            self.validation.clear()
        for line in lines:
            try:
                row = parse_json(line)
                stage, step = str(row["stage"]), float(row["step"])
            except (ValueError, TypeError, KeyError):
                continue  # a row of another kind, or damaged by a crash
            for name, curves in (("loss", self.train), ("val_loss", self.validation)):
                loss = row.get(name)
                if isinstance(loss, int | float) and not isinstance(loss, bool) and math.isfinite(loss):
                    curves.setdefault(stage, Curve()).add(step, float(loss))
        return bool(lines) or self._file.restarted


class Log:
    """The last lines of ``run.log``."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path, TAIL_BYTES)
        self.lines: deque[str] = deque(maxlen=MAX_LINES)

    @property
    def restarted(self) -> bool:
        """Whether the last :meth:`read` began anew."""
        return self._file.restarted

    def read(self) -> list[str]:
        """Lines that are new, kept in :attr:`lines` too."""
        new = [printable(line) for line in self._file.lines()]
        if self._file.restarted:
            self.lines.clear()
        self.lines.extend(new)
        return new
