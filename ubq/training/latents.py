"""Latents of the frozen encoder: computed once, reused by every later stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ubq.training.tasks import Maps


@torch.no_grad()
def encode_all(encoder: nn.Module, maps: Maps, batch_size: int) -> Tensor:
    """Latents (N, L) of every sample, on the CPU; the encoder is left in evaluation mode."""
    encoder.eval()
    parts = torch.arange(len(maps)).split(batch_size)
    return torch.cat([encoder(maps.velocity(part)).flatten(1).float().cpu() for part in parts])
