"""The pipeline: one file per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ubq.stages.base import Stage

    PIPELINE: tuple[Stage, ...]


def __getattr__(name: str) -> object:
    # Not imported at once: `ubq status` needs ubq.stages.paths and not every stage, and pydantic with them.
    if name == "PIPELINE":
        from ubq.stages.pipeline import PIPELINE

        return PIPELINE
    raise AttributeError(name)
