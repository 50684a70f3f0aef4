"""What a run looks like from outside: read without the lock, whatever state its files are in.

Light on purpose: ``ubq status`` imports neither torch nor pydantic.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.jobs.owner import OWNER, Owner, alive, read_owner
from ubq.jobs.state import (
    COMPLETED,
    CRASHED,
    PENDING,
    RUNNING,
    SCHEMA_VERSION,
    NewerSchemaError,
    RunState,
    StageState,
    parse_state,
)
from ubq.stages.paths import RunPaths


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment."""

    paths: RunPaths
    state: RunState
    owner: Owner | None
    """The process that writes it, when it is alive."""
    schema_version: int = SCHEMA_VERSION
    problem: str = ""
    """What kept the state from being read whole."""

    @property
    def shown(self) -> str:
        """The run's state; ``crashed`` where the file says running and no process is there."""
        started = bool(self.state.created)
        if self.state.state in (RUNNING, PENDING) and started and self.owner is None and not self.problem:
            return CRASHED
        return self.state.state

    @property
    def running(self) -> bool:
        return self.owner is not None

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``ubq status --json``."""
        raw = self.state.as_dict()
        for stage in raw["stages"]:
            del stage["fingerprint"]
            stage["percent"] = percent(stage["step"], stage["steps"], stage["state"])
            if stage["state"] == RUNNING and self.shown == CRASHED:
                stage["state"] = CRASHED
        raw |= {
            "schema_version": self.schema_version,
            "state": self.shown,
            "folder": str(self.paths.root),
            "owner": dataclasses.asdict(self.owner) if self.owner else None,
            "problem": self.problem,
        }
        return raw


def command_line(verb: str, run: Path) -> str:
    """The exact command that does something with a run from the working folder."""
    folder = run.parent
    place = "" if folder in (Path("runs"), Path.cwd() / "runs") else f" --runs-dir {shlex.quote(str(folder))}"
    return f"ubq {verb} {shlex.quote(run.name)}{place}"


def percent(step: int, steps: int, state: str) -> float:
    """How far a stage is, 0 to 100."""
    if state == COMPLETED:
        return 100.0
    return round(100.0 * step / steps, 1) if steps else 0.0


def snapshot(folder: Path) -> Snapshot:
    """Read one run.

    Raises:
        UsageError: the folder holds no run.
    """
    paths = RunPaths(folder)
    owner = read_owner(folder)
    if owner is not None and not alive(owner, folder):
        owner = None
    try:
        data = paths.state.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if owner is None and not paths.config.is_file():
            raise UsageError(
                _("{folder} holds no run").format(folder=folder), _("list the runs with: ubq runs")
            ) from None
        # Configured and not started yet.
        return Snapshot(paths, RunState(run=folder.name, next_command=command_line("resume", folder)), owner)
    try:
        return Snapshot(paths, parse_state(data, paths.state), owner)
    except NewerSchemaError as error:
        raw = json.loads(data)
        return Snapshot(paths, _best_effort(raw, folder), owner, raw["schema_version"], str(error))
    except UsageError as error:
        return Snapshot(paths, RunState(run=folder.name, state="unreadable"), owner, 0, str(error))


def _best_effort(raw: dict[str, Any], folder: Path) -> RunState:
    """What can be told of a state file of a newer schema: the fields that every schema has."""

    def text(value: object) -> str:
        return value if isinstance(value, str) else ""

    def count(value: object) -> int:
        return value if type(value) is int else 0

    stages = raw.get("stages")
    return RunState(
        run=text(raw.get("run")) or folder.name,
        state=text(raw.get("state")) or "unknown",
        updated=text(raw.get("updated")),
        next_command=text(raw.get("next_command")),
        stages=[
            StageState(text(s.get("name")), text(s.get("state")), count(s.get("step")), count(s.get("steps")))
            for s in (stages if isinstance(stages, list) else [])
            if isinstance(s, dict)
        ],
    )


def run_folders(runs_dir: Path) -> list[Path]:
    """Folders of the runs in a folder, newest first."""

    def touched(folder: Path) -> float:
        times = [
            f.stat().st_mtime for f in (folder / "state.json", folder / OWNER, folder / "config.toml") if f.exists()
        ]
        return max(times, default=0.0)

    if not runs_dir.is_dir():
        return []
    found = [p for p in runs_dir.iterdir() if (p / "state.json").is_file() or (p / "config.toml").is_file()]
    return sorted(found, key=lambda p: (-touched(p), p.name))


def find_run(run: str | None, runs_dir: Path) -> Path:
    """Folder of a run by its name or path; of the newest one when no name is given.

    Raises:
        UsageError: there is no such run.
    """
    folders = run_folders(runs_dir)
    if not run:
        if not folders:
            raise UsageError(
                _("there is no run in {folder}").format(folder=runs_dir), _("start one with: ubq run --preset NAME")
            )
        return folders[0]
    if "/" in run and run_folders(Path(run).parent).count(Path(run)):
        return Path(run)
    for folder in folders:
        if folder.name == run:
            return folder
    close = get_close_matches(run, [f.name for f in folders], n=1)
    raise UsageError(
        _("there is no run {run} in {folder}").format(run=run, folder=runs_dir),
        _("did you mean {close}?").format(close=close[0]) if close else _("list the runs with: ubq runs"),
    )
