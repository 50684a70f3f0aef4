"""``state.json``: how far a run is. One process writes it, anyone reads it at any time.

The fields and the schema's history are documented in ``docs/state.md``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ubq.durable import dump_json, read_regular, write_atomic
from ubq.errors import UbqError, UsageError
from ubq.i18n import gettext as _
from ubq.i18n import restored, storable

SCHEMA_VERSION = 3

PENDING = "pending"
RUNNING = "running"
INTERRUPTED = "interrupted"
FAILED = "failed"
COMPLETED = "completed"
PARTIAL = "partial"  # run only: the stages that were asked for are complete, others are not
CRASHED = "crashed"  # shown, never written: the file says running and its process is gone


def now() -> str:
    """The time as every file of a run writes it: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass
class StageState:
    """One stage's entry in ``state.json``."""

    name: str
    state: str = PENDING
    step: int = 0
    steps: int = 0
    phase: str = ""
    loss: float | None = None
    best_loss: float | None = None
    rate: float | None = None
    """Steps a second."""
    eta: float | None = None
    """Seconds to the end of the stage."""
    started: str | None = None
    ended: str | None = None
    seconds: float = 0.0
    """Time spent, over all processes that worked on it."""
    peak_memory: int | None = None
    """Largest resident size of the process while it worked on it, bytes."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Where it last ran: ``host``, ``cpu``, ``cores``, ``threads``; ``gpu`` and ``gpu_memory`` where one was used."""
    last_checkpoint: int | None = None
    resumed_from: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    """The figures last reported."""
    notes: list[dict[str, Any]] = field(default_factory=list)
    """Events that a reader should not miss, with their fields: ``out_of_memory``."""
    error: dict[str, str] | None = None
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    """``{path, bytes}`` of each output, the path relative to the run's folder."""
    fingerprint: dict[str, Any] | None = None
    """The values that decided the output: what a later start compares with."""
    generation: int = 0
    """How often it started over with other values; part of the fingerprints of the stages after it."""


@dataclass
class RunState:
    """The whole of ``state.json``."""

    run: str
    preset: str = ""
    state: str = PENDING
    created: str = ""
    updated: str = ""
    holder: str = ""
    """``token`` of the process that wrote this, as in ``owner.json``."""
    exit_code: int | None = None
    error: dict[str, str] | None = None
    """``{stage, message, fix}`` of what failed."""
    next_command: str = ""
    preflight: list[dict[str, str]] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    """``{rank, host, pid}`` of the processes that train together; empty where there is one."""
    stages: list[StageState] = field(default_factory=list)

    def stage(self, name: str) -> StageState | None:
        """One stage's entry, if it has any."""
        return next((s for s in self.stages if s.name == name), None)

    def put(self, entry: StageState) -> None:
        """Replace a stage's entry."""
        self.stages = [entry if s.name == entry.name else s for s in self.stages]

    @property
    def artifacts(self) -> list[dict[str, Any]]:
        """Outputs of the complete stages."""
        return [{"stage": s.name, **a} for s in self.stages for a in s.artifacts]

    def as_dict(self) -> dict[str, Any]:
        """The state as JSON holds it."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self), "artifacts": self.artifacts}


def write_state(path: Path, state: RunState) -> None:
    """Write ``state.json`` in one durable step."""
    state.updated = now()
    write_atomic(path, dump_json(storable(state.as_dict()), indent=1))


def read_state(path: Path) -> RunState | None:
    """The state in a file, migrated to this schema; ``None`` where there is no file.

    Raises:
        UsageError: the file was written by a newer ubq, or is not a state file.
    """
    try:
        data = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_state(data, path)


def parse_state(data: bytes, path: Path) -> RunState:
    """As :func:`read_state`, from bytes; ``path`` is for the error."""
    try:
        return _from_dict(restored(migrate(json.loads(data))))
    except UbqError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            _("{path} is not a state file: {error}").format(path=path, error=str(error).splitlines()[0]),
            _("move it away; the run then starts its stages again"),
        ) from error


class NewerSchemaError(UsageError):
    """The state file was written by a newer ubq."""


def migrate(raw: object) -> dict[str, Any]:
    """Bring the content of an older ``state.json`` to the present schema.

    Raises:
        NewerSchemaError: the schema is newer than this ubq.
        ValueError: it is no state file at all.
    """
    if not isinstance(raw, dict) or type(raw.get("schema_version")) is not int or raw["schema_version"] < 1:
        raise ValueError("no schema_version")
    version = raw["schema_version"]
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            _("state.json has schema {version}, this ubq knows up to {known}").format(
                version=version, known=SCHEMA_VERSION
            ),
            _("use the newer ubq that wrote it: pip install --upgrade ubq"),
        )
    while version < SCHEMA_VERSION:
        raw = _MIGRATIONS[version](raw)
        version += 1
        raw["schema_version"] = version
    return raw


def _from_1_to_2(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 held stages as an object in run order, times in seconds since 1970, and ``done`` for ``completed``."""

    def moment(seconds: float | None) -> str | None:
        if seconds is None:
            return None
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    def name(state: str) -> str:
        return COMPLETED if state == "done" else state

    stages = []
    for stage, entry in old["stages"].items():
        new = {k: v for k, v in entry.items() if k not in ("started", "ended", "state")}
        new |= {"name": stage, "state": name(entry["state"])}
        new |= {"started": moment(entry.get("started")), "ended": moment(entry.get("ended"))}
        stages.append(new)
    new_run = {k: v for k, v in old.items() if k not in ("stages", "created", "updated", "state")}
    return {
        **new_run,
        "state": name(old["state"]),
        "created": moment(old.get("created")) or "",
        "updated": moment(old.get("updated")) or "",
        "stages": stages,
    }


def _from_2_to_3(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 called what a person can do about a problem ``mend``."""

    def renamed(entry: object) -> object:
        if not isinstance(entry, dict) or "mend" not in entry:
            return entry
        return {"fix" if key == "mend" else key: value for key, value in entry.items()}

    return {
        **old,
        "error": renamed(old.get("error")),
        "preflight": [renamed(check) for check in old.get("preflight", [])],
        "stages": [{**stage, "error": renamed(stage.get("error"))} for stage in old["stages"]],
    }


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1_to_2, 2: _from_2_to_3}


def stage_from(values: dict[str, Any]) -> StageState:
    """A stage's entry from its JSON; fields of another ubq are left out."""
    return StageState(**_known(StageState, values))


def _known(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {k: v for k, v in values.items() if k in names}


def _from_dict(raw: dict[str, Any]) -> RunState:
    state = RunState(**_known(RunState, {**raw, "stages": [stage_from(s) for s in raw["stages"]]}))
    entries: list[RunState | StageState] = [state, *state.stages]
    for entry in entries:
        for f in dataclasses.fields(entry):
            if not _fits(getattr(entry, f.name), str(f.type)):
                raise ValueError(f"{f.name} is {getattr(entry, f.name)!r:.40}, not {f.type}")
    return state


_TYPES: Mapping[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "None": type(None)}


def _fits(value: object, annotation: str) -> bool:
    """Whether a value is of a field's type, which is a name, ``X | None``, or a list or dict of plain values."""
    for name in annotation.split(" | "):
        if name.startswith("list[dict"):
            fits = isinstance(value, list) and all(isinstance(v, dict) for v in value)
        elif name.startswith("list["):
            fits = isinstance(value, list)
        elif name.startswith("dict["):
            fits = isinstance(value, dict)
        else:
            fits = isinstance(value, _TYPES[name]) and not isinstance(value, bool)
            fits = fits and (not isinstance(value, float) or math.isfinite(value))
        if fits:
            return True
    return False


class StateFile:
    """The writer of one run's state, that keeps frequent progress cheap.

    Args:
        path: ``state.json``.
        state: what it holds; change it, then :meth:`save` or :meth:`save_progress`.
        check: called before every write; what it raises keeps the file as it is.
    """

    # Progress is written at most twice a second, and so seldom that it costs 1 % where a write is slow.
    MIN_INTERVAL_S = 0.5
    MAX_SHARE = 0.01

    def __init__(self, path: Path, state: RunState, check: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.state = state
        self.check = check
        self._next = 0.0

    def save(self) -> None:
        """Write now."""
        self.check()
        begin = time.monotonic()
        write_state(self.path, self.state)
        end = time.monotonic()
        self._next = end + max(self.MIN_INTERVAL_S, (end - begin) / self.MAX_SHARE)

    def save_progress(self) -> None:
        """Write if the last write is long enough ago."""
        if time.monotonic() >= self._next:
            self.save()
