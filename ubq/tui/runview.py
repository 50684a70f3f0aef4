"""One look at a run: what its files say, and what its process takes of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.jobs.status import Snapshot, snapshot
from ubq.plaintext import printable
from ubq.stages.paths import RunPaths
from ubq.tui.load import Load, LoadMeter
from ubq.tui.runfiles import Log, Metrics


@dataclass(frozen=True)
class RunView:
    """One look at a run."""

    shot: Snapshot | None
    problem: str
    log: list[str]
    log_restarted: bool
    load: Load | None


class RunReader:
    """Reads a run's files; used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = RunPaths(folder)
        self.metrics = Metrics(paths.metrics)
        self.log = Log(paths.log)
        self._meter = LoadMeter()

    def look(self, measured: bool = True) -> RunView:
        """What is new; a run that cannot be read becomes a message.

        Args:
            measured: ask the machine for the load, too, which may take a second or two.
        """
        shot, problem = None, ""
        try:
            shot = snapshot(self.folder)
            problem = shot.problem
        except UbqError as error:
            problem = printable(str(error))
        except OSError as error:
            problem = _("cannot read {folder}: {reason}")
            problem = printable(problem.format(folder=self.folder, reason=error.strerror or error))
        self.metrics.read()
        new = self.log.read()
        load = self._meter.read(shot.owner) if measured and shot and shot.owner else None
        return RunView(shot, problem, new, self.log.restarted, load)
