"""What a training loop and a stage are handed by whoever runs them, and how they end when asked to stop.

Light: imports no torch, so that a run's state is on disk before the heavy imports start.
"""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Where checkpoints go."""

    def save(self, step: int, payload: dict[str, object]) -> object: ...
    def latest(self) -> tuple[int, dict[str, object]] | None: ...
    def latest_step(self) -> int: ...


class TrainingContext(Protocol):
    """What a training loop reaches the outside through; a stage's context has more (``ubq.stages.base``)."""

    stage: str

    @property
    def store(self) -> Store:
        """Checkpoints of this stage."""
        ...

    def progress(self, step: int, steps: int, **figures: float | str) -> None:
        """Show how far the stage is (bar, state.json); cheap enough to call at every step."""
        ...

    def metrics(self, step: int, **figures: float | str) -> None:
        """Append one row to metrics.jsonl; rows past a resumed checkpoint are dropped by the runner."""
        ...

    def event(self, kind: str, **fields: object) -> None:
        """Append one row to events.jsonl."""
        ...

    def log(self, message: str) -> None:
        """One line for people: terminal and run.log."""
        ...

    def stop_requested(self) -> bool:
        """True after the first SIGINT, SIGTERM or SIGHUP, or ``ubq stop``."""
        ...

    def checkpoint_saved(self, step: int) -> None:
        """The stage has just saved this step: what the state file names as the resume point."""
        ...


class Stopped(Exception):
    """Raised after a stop was requested, by whoever has saved itself."""
