"""What a stage is: what it reads, what it makes, how it runs.

Importing a stage imports no torch, so that a run's state is on disk before the heavy imports start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from ubq.config.schema import Config
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    from ubq.checkpoints.store import CheckpointStore


class StageContext(Protocol):
    """What the runner hands a stage. A stage reaches the outside only through this."""

    config: Config
    paths: RunPaths
    stage: str

    @property
    def store(self) -> CheckpointStore:
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


class Interrupted(Exception):
    """Raised by a stage that has saved itself after ``stop_requested`` became true."""


class Stage(ABC):
    """One stage of the pipeline."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised by hand when the stage's output changes for the same input."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Configuration keys or tables that decide the output (``train.autoencoder``, ``seed``)."""
    after: ClassVar[tuple[str, ...]] = ()
    """Stages whose outputs it reads; those that the configuration leaves out are skipped."""
    trains: ClassVar[bool] = False
    """Whether its losses count for the success mark ``loss_falling``."""

    def wanted(self, config: Config) -> bool:
        """Whether this configuration has the stage at all."""
        return True

    def inputs(self, config: Config) -> Iterable[Path]:
        """Files from outside the run that decide the output."""
        return ()

    def facts(self, config: Config) -> Mapping[str, object]:
        """Further values that decide the output, beyond configuration and files."""
        return {}

    @abstractmethod
    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        """Files that exist once the stage is complete."""

    @abstractmethod
    def run(self, context: StageContext) -> None:
        """Do the work, from the last checkpoint if there is one.

        Raises:
            Interrupted: a stop was requested and the stage has saved itself.
            UbqError: something that the user can mend.
        """
