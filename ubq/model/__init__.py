"""The float model, independent of the rest of ubq."""

from ubq.model.diffusion import GaussianDiffusion, Objective
from ubq.model.ubdiff import ModelSizes, UBDiff, build_part

__all__ = ["GaussianDiffusion", "ModelSizes", "Objective", "UBDiff", "build_part"]
