"""Latents of the frozen encoder: scaled once, computed once, reused by every later stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ubq.training.modules import Autoencoder
from ubq.training.tasks import Maps


@torch.no_grad()
def encode_all(encoder: nn.Module, maps: Maps, batch_size: int) -> Tensor:
    """Latents (N, L) of every sample, on the CPU; the encoder is left in evaluation mode."""
    encoder.eval()
    parts = torch.arange(len(maps)).split(batch_size)
    return torch.cat([encoder(maps.velocity(part)).flatten(1).float().cpu() for part in parts])


@torch.no_grad()
def scale_latents(model: Autoencoder, maps: Maps, batch_size: int) -> float:
    """Scale the latent into the sampler's clamp range [-1, 1], exactly compensated in the projector.

    The encoder ends in BatchNorm and LeakyReLU and the projector begins with a Linear; a positive
    factor passes through all three, so encoder and decoder together compute what they did before.

    Returns:
        The factor that every latent was multiplied by.
    """
    largest = float(encode_all(model.encoder, maps, batch_size).abs().amax())
    factor = 1.0 / max(largest, 1e-12)
    last = [m for m in model.encoder.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    first = next(m for m in model.velocity_projector.modules() if isinstance(m, nn.Linear))
    last.weight.mul_(factor)
    last.bias.mul_(factor)
    first.weight.div_(factor)
    return factor
