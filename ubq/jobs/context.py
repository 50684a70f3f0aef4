"""What a running stage is handed: its progress, figures and events find their way into the run's files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from ubq.durable import LineFile, plain

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.jobs.console import Console
    from ubq.jobs.signals import StopSignals
    from ubq.jobs.state import StageState, StateFile
    from ubq.jobs.tracking import Tracking
    from ubq.stages.paths import RunPaths
    from ubq.training.store import CheckpointStore


class Runner(Protocol):
    """The one start of a run that the stage belongs to (``ubq.jobs.run``)."""

    config: Config
    paths: RunPaths
    console: Console
    file: StateFile
    metrics: LineFile
    tracking: Tracking

    def check(self) -> None: ...
    def event(self, kind: str, **fields: object) -> None: ...
    def log(self, message: str) -> None: ...


class RunContext:
    """What a stage sees of the runner; see :class:`ubq.stages.base.StageContext`."""

    # The first steps are slower (allocation, compilation) and would spoil the rate.
    WARM_UP_STEPS = 3

    def __init__(self, runner: Runner, entry: StageState, store: CheckpointStore, stop: StopSignals) -> None:
        self.config = runner.config
        self.paths = runner.paths
        self.stage = entry.name
        self._runner = runner
        self._entry = entry
        self._store = store
        self._stop = stop
        self._first: tuple[int, float] | None = None
        self._calls = 0
        self._validates = "val_loss" in entry.figures

    @property
    def store(self) -> CheckpointStore:
        return self._store

    def progress(self, step: int, steps: int, **figures: float | str) -> None:
        entry = self._entry
        if steps != entry.steps or figures.get("phase", entry.phase) != entry.phase:
            self._calls = 0  # another kind of work, at another rate
        entry.step, entry.steps = step, steps
        self._calls += 1
        moment = time.monotonic()
        if self._first is None or self._calls <= self.WARM_UP_STEPS:
            self._first = step, moment
        elif moment > self._first[1] and step > self._first[0]:
            entry.rate = (step - self._first[0]) / (moment - self._first[1])
            entry.eta = max(steps - step, 0) / entry.rate
        self._take(figures)
        self._runner.console.progress(entry)
        self._runner.file.save_progress()

    def metrics(self, step: int, **figures: float | str) -> None:
        self._take(figures)
        self._runner.check()
        self._runner.metrics.append({"stage": self.stage, "step": step, **figures})
        self._runner.tracking.row(self.stage, step, figures)

    def _take(self, figures: dict[str, float | str]) -> None:
        """Keep the latest figures; ``loss`` and the best of ``val_loss`` (else of ``loss``) stand apart."""
        if not figures:
            return
        entry = self._entry
        for name, value in figures.items():
            entry.figures[name] = plain(value)
        if "phase" in figures:
            entry.phase = str(figures["phase"])
        loss, validation = plain(figures.get("loss")), plain(figures.get("val_loss"))
        if isinstance(loss, int | float):
            entry.loss = float(loss)
        if validation is not None and not self._validates:
            self._validates, entry.best_loss = True, None
        judged = validation if self._validates else loss
        if isinstance(judged, int | float):
            entry.best_loss = float(judged) if entry.best_loss is None else min(entry.best_loss, float(judged))

    def event(self, kind: str, **fields: object) -> None:
        if kind == "out_of_memory":
            self._entry.notes.append({"event": kind, **fields})
            self._runner.file.save()
        self._runner.event(kind, stage=self.stage, **fields)

    def log(self, message: str) -> None:
        self._runner.log(f"{self.stage}: {message}")

    def stop_requested(self) -> bool:
        return self._stop.received is not None

    def checkpoint_saved(self, step: int) -> None:
        self._entry.last_checkpoint = step
        self._runner.file.save()
        self._runner.event("checkpoint", stage=self.stage, step=step)
