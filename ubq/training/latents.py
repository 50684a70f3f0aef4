"""Latents of the frozen encoder: computed once, by the stage that has it, and reused by every later stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ubq.training.files import load_tensors, save_tensors

ENCODER_BATCH = 64
"""Maps encoded at a time."""


class Maps(Protocol):
    """Normalised samples by number."""

    def __len__(self) -> int: ...
    def velocity(self, samples: Tensor) -> Tensor:
        """(B, 1, 70, 70) on the training device."""
        ...

    def seismic(self, samples: Tensor) -> Tensor:
        """(B, 5, 1000, 70) on the training device."""
        ...

    def prefetch_seismic(self, samples: Tensor) -> None:
        """Begin to read gathers that will be asked for next; may do nothing."""
        ...


@dataclass(frozen=True)
class Latents:
    """Latents of the frozen encoder, (N, L) each, on the training device."""

    train: Tensor
    val: Tensor
    further: Tensor | None = None
    """Of training maps without gathers."""

    @property
    def every(self) -> Tensor:
        """Latents of all training maps."""
        return self.train if self.further is None else torch.cat([self.train, self.further])

    def train_of(self, samples: Tensor) -> Tensor:
        """(B, L) of training samples (B,), whose numbers may be on the host."""
        return self.train[samples.to(self.train.device, non_blocking=True)]

    def val_of(self, samples: Tensor) -> Tensor:
        """(B, L) of held-out samples (B,), whose numbers may be on the host."""
        return self.val[samples.to(self.val.device, non_blocking=True)]


@torch.no_grad()
def encode_all(encoder: nn.Module, maps: Maps, batch_size: int) -> Tensor:
    """Latents (N, L) of every sample, on the CPU; the encoder is left in evaluation mode."""
    encoder.eval()
    parts = torch.arange(len(maps)).split(batch_size)
    return torch.cat([encoder(maps.velocity(part)).flatten(1).float().cpu() for part in parts])


def save_latents(encoder: nn.Module, sides: Mapping[str, Maps], path: Path) -> None:
    """Encode the training and the held-out maps (``train``, ``val``), and those without gathers (``further``)."""
    save_tensors(path, {side: encode_all(encoder, maps, ENCODER_BATCH) for side, maps in sides.items()})


def load_latents(path: Path, device: torch.device) -> Latents:
    """Latents of the frozen encoder, on the training device."""
    stored = load_tensors(path)
    return Latents(**{side: latents.clone().to(device) for side, latents in stored.items()})
