"""The latents on disk: computed once, by the stage that has the frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ubq.stages.files import load_tensors, save_tensors
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ubq.training.tasks import Latents, Maps

ENCODER_BATCH = 64
"""Maps encoded at a time."""


def save_latents(encoder: nn.Module, sides: Mapping[str, Maps], paths: RunPaths) -> None:
    """Encode the training and the held-out maps (``train`` and ``val``)."""
    from ubq.training.latents import encode_all

    save_tensors(paths.latents, {side: encode_all(encoder, maps, ENCODER_BATCH) for side, maps in sides.items()})


def load_latents(paths: RunPaths, device: torch.device) -> Latents:
    """Latents of the frozen encoder, on the training device."""
    from ubq.training.tasks import Latents

    stored = load_tensors(paths.latents)
    return Latents(**{side: stored[side].clone().to(device) for side in ("train", "val")})
