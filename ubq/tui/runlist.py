"""What is known of the runs in a folder, and how a line tells it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.cells import cell_len
from rich.text import Text

from ubq.errors import EXIT_MARK_FAILED, UbqError
from ubq.figures import duration, padded
from ubq.i18n import gettext as _
from ubq.jobs.owner import holder
from ubq.jobs.state import COMPLETED
from ubq.jobs.status import Snapshot, percent, run_folders, snapshot
from ubq.plaintext import printable
from ubq.stages.paths import RunPaths
from ubq.tui.words import cut, state_word
from ubq.verify.report import REPORT, Report

STATE = 13
"""Columns of the state."""
NAME = 30
"""Columns of a name at most, and of what a run has reached."""


@dataclass(frozen=True)
class Run:
    """A line of the list of runs."""

    folder: Path
    state: str
    where: str
    age: str
    preset: str = ""
    seconds: float = 0.0
    """What its stages took, where all are complete."""
    running: bool = False

    @property
    def resumable(self) -> bool:
        """Whether it can be gone on with."""
        return not self.running and self.state not in (COMPLETED, "unreadable")


def runs_in(runs_dir: Path) -> list[Run]:
    """The runs of a folder, newest first; one that cannot be read says so."""
    runs: list[Run] = []
    try:
        folders = run_folders(runs_dir)
    except UbqError:
        return runs  # the folder itself may not be read
    for folder in folders:
        try:
            shot = snapshot(folder)
        except (UbqError, OSError):
            continue  # it went away meanwhile
        state = shot.state
        seconds = sum(s.seconds for s in state.stages) if state.state == COMPLETED else 0.0
        runs.append(Run(folder, shot.shown, where(shot), age(state.updated), state.preset, seconds, shot.running))
    return runs


def running_in(runs_dir: Path, others: Iterable[Path | None] = ()) -> list[Path]:
    """Runs that a process works on: of a folder, and of others."""
    try:
        folders = run_folders(runs_dir)
    except UbqError:
        folders = []  # the folder itself may not be read
    every = {folder.absolute(): folder for folder in (*folders, *(other for other in others if other is not None))}
    return [folder for folder in every.values() if holder(folder)]


def where(shot: Snapshot) -> str:
    """Stage and percentage that a run has reached, or how many success marks failed."""
    if shot.state.exit_code == EXIT_MARK_FAILED:
        return marks_failed(shot.paths)
    current = next((s for s in shot.state.stages if s.state != COMPLETED), None)
    if current is None:
        return "100 %" if shot.state.stages else ""
    return f"{current.name} {percent(current.step, current.steps, current.state):.0f} %"


def marks_failed(paths: RunPaths) -> str:
    """How many success marks of a run failed."""
    try:
        count = sum(not mark.passed for mark in Report.read(paths.exported / REPORT).marks)
    except UbqError:
        return _("a success mark failed")
    return _("1 success mark failed") if count == 1 else _("{count} success marks failed").format(count=count)


def age(updated: str) -> str:
    """How long ago something was written."""
    try:
        seconds = time.time() - datetime.fromisoformat(updated).timestamp()
    except ValueError:
        return ""
    return _("{time} ago").format(time=duration(max(0.0, seconds)))


def lines_of(runs: Iterable[Run], width: int) -> list[Text]:
    """A line for each run, its columns in one row; what has no room is cut in the middle, the age never."""
    runs = list(runs)
    ages = max((cell_len(run.age) for run in runs), default=0)
    left = max(width - 2 - STATE - ages - 4, 16)
    name = min(NAME, max((cell_len(printable(run.folder.name)) for run in runs), default=0), (left + 1) // 2)
    reached = min(NAME, left - name)
    lines = []
    for run in runs:
        line = Text(f"  {padded(cut(printable(run.folder.name), name), name)} ", no_wrap=True, overflow="ellipsis")
        line.append(padded(state_word(run.state), STATE), style="bold")
        line.append(f" {padded(cut(run.where, reached), reached)}  {run.age}")
        lines.append(line)
    return lines
