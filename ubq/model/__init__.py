"""The float UB-Diff model. Loaded when asked for, since the names of its parts are needed without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ubq.model.diffusion import GaussianDiffusion, Objective
    from ubq.model.ubdiff import ModelSizes, UBDiff, build_part

__all__ = ["GaussianDiffusion", "ModelSizes", "Objective", "UBDiff", "build_part"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ubq.model import diffusion, ubdiff

    return getattr(ubdiff if hasattr(ubdiff, name) else diffusion, name)
