"""The latents on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ubq.stages.files import load_tensors
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    import torch

    from ubq.training.tasks import Latents


def load_latents(paths: RunPaths, device: torch.device) -> Latents:
    """Latents of the frozen encoder, on the training device."""
    from ubq.training.tasks import Latents

    stored = load_tensors(paths.latents)
    return Latents(**{side: stored[side].clone().to(device) for side in ("train", "val")})
