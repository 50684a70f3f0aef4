"""What a run looks like from outside: read without the lock, whatever state its files are in.

Light on purpose: ``ubq status`` imports neither torch nor pydantic.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from ubq.config.runs import command, expanded, place_of, run_command, values_set
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.jobs.owner import OWNER, Owner, holder
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
from ubq.plaintext import printable, printable_within
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


def percent(step: int, steps: int, state: str) -> float:
    """How far a stage is, 0 to 100."""
    if state == COMPLETED:
        return 100.0
    return round(100.0 * step / steps, 1) if steps else 0.0


def snapshot(folder: Path) -> Snapshot:
    """Read one run. What stands in its files is foreign text: it comes without control characters.

    Raises:
        UsageError: the folder holds no run.
    """
    paths = RunPaths(folder)
    owner = holder(folder)
    state, version, problem = _read(paths, started=owner is not None)
    state = _clean(state)
    # The folder may have been renamed or moved, and this process may work elsewhere than the one that wrote.
    state.run = printable(folder.absolute().name)
    if state.next_command:
        state.next_command = run_command("resume", folder, *values_set(state.next_command))
    return Snapshot(paths, state, _clean(owner) if owner else None, version, printable(problem))


def _read(paths: RunPaths, started: bool) -> tuple[RunState, int, str]:
    """State, its schema, and what kept it from being read whole."""
    folder = paths.root
    unreadable = RunState(run=folder.name, state="unreadable")
    try:
        if paths.state.exists() and not paths.state.is_file():  # a pipe would be waited for
            return unreadable, 0, _("{path} is not a state file: {error}").format(path=paths.state, error=_("no file"))
        data = paths.state.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not started and not paths.config.is_file():
            raise UsageError(
                _("{folder} holds no run").format(folder=folder), _("list the runs with: ubq runs")
            ) from None
        # Configured and not started yet.
        return RunState(run=folder.name, next_command="resume"), SCHEMA_VERSION, ""
    except OSError as error:
        why = _("{path} cannot be read: {error}").format(path=paths.state, error=error.strerror or error)
        return unreadable, 0, why
    try:
        return parse_state(data, paths.state), SCHEMA_VERSION, ""
    except NewerSchemaError as error:
        raw = json.loads(data)
        return _best_effort(raw, folder), raw["schema_version"], str(error)
    except UsageError as error:
        return unreadable, 0, str(error)


_Record = TypeVar("_Record", RunState, StageState, Owner)


def _clean(record: _Record) -> _Record:
    """A record whose texts can be shown on a terminal."""

    def clean(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], StageState):
            return [_clean(stage) for stage in value]
        return printable_within(value)

    return dataclasses.replace(record, **{f.name: clean(getattr(record, f.name)) for f in dataclasses.fields(record)})


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
    """Folders of the runs in a folder, newest first; one that cannot be looked into is listed last."""
    runs: list[tuple[float, str, Path]] = []
    try:
        folders = list(runs_dir.iterdir()) if runs_dir.is_dir() else []
    except OSError as error:
        raise UsageError(
            _("{path} cannot be read: {error}").format(path=runs_dir, error=error.strerror or error),
            _("choose another with --runs-dir"),
        ) from error
    for folder in folders:
        try:
            times = [os.stat(folder / n).st_mtime for n in ("state.json", OWNER, "config.toml") if _is_file(folder / n)]
            holds_run = _is_file(folder / "state.json") or _is_file(folder / "config.toml")
        except OSError:
            times, holds_run = [0.0], folder.is_dir()
        if holds_run:
            runs.append((-max(times, default=0.0), folder.name, folder))
    return [folder for _time, _name, folder in sorted(runs)]


def _is_file(path: Path) -> bool:
    """As ``Path.is_file``, but what may not be looked at raises in every Python."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def find_run(run: str | None, runs_dir: Path) -> Path:
    """Folder of a run by its name or path; of the newest one when no name is given.

    Raises:
        UsageError: there is no such run.
    """
    if run and ("/" in run or run.startswith("~") or run in (".", "..")):
        path = Path(expanded(run))
        if path.name in ("", ".."):  # its name is in the whole path alone
            path = path.resolve()
        if run_folders(path.absolute().parent).count(path.absolute()):
            return path
    folders = run_folders(runs_dir)
    if not run:
        if not folders:
            raise UsageError(
                _("there is no run in {folder}").format(folder=runs_dir), _("start one with: ubq run --preset NAME")
            )
        return folders[0]
    for folder in folders:
        if folder.name == run:
            return folder
    close = get_close_matches(run, [f.name for f in folders], n=1)
    raise UsageError(
        _("there is no run {run} in {folder}").format(run=run, folder=runs_dir),
        _("did you mean {close}?").format(close=close[0])
        if close
        else command("ubq", "runs", *place_of(runs_dir / "run")),
    )


def running_run(runs_dir: Path, queued: Callable[[Path], bool] = lambda run: False) -> Path:
    """Folder of the only run that a process works on, or that is queued for one.

    Raises:
        UsageError: there is none, or more than one.
    """

    running = [folder for folder in run_folders(runs_dir) if holder(folder) or queued(folder)]
    if not running:
        raise UsageError(
            _("no run is running in {folder}").format(folder=runs_dir),
            command("ubq", "runs", *place_of(runs_dir / "run")),
        )
    if len(running) > 1:
        raise UsageError(
            _("{count} runs are running: which one?").format(count=len(running)),
            _(" or: ").join(run_command("stop", folder) for folder in running),
        )
    return running[0]
