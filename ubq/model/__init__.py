"""The float model, independent of the rest of ubq."""

from ubq.model.diffusion import GaussianDiffusion, Objective
from ubq.model.ubdiff import PARTS, ModelSizes, UBDiff, build_part

__all__ = ["PARTS", "GaussianDiffusion", "ModelSizes", "Objective", "UBDiff", "build_part"]
