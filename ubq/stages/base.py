"""What a stage is: what it reads, what it makes, how it runs.

Importing a stage imports no torch, so that a run's state is on disk before the heavy imports start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

from ubq.config.schema import Config
from ubq.stages.paths import RunPaths
from ubq.training.context import Stopped, TrainingContext

__all__ = ["Stage", "StageContext", "Stopped"]


class StageContext(TrainingContext, Protocol):
    """What a stage is handed. It reaches the outside only through this."""

    config: Config
    paths: RunPaths


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

    def applies(self, config: Config) -> bool:
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
            Stopped: a stop was requested and the stage has saved itself.
            UbqError: something that the user can fix.
        """
