"""Latents of the frozen encoder: computed once, by the stage that has it, and reused by every later stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ubq.data.split import SampleIds
from ubq.errors import StageError
from ubq.i18n import gettext as _
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


def save_latents(encoder: nn.Module, sides: Mapping[str, Maps], path: Path, ids: SampleIds | None = None) -> None:
    """Encode the training and the held-out maps (``train`` and ``val``); the file carries whose latents they are."""
    tensors = {side: encode_all(encoder, maps, ENCODER_BATCH) for side, maps in sides.items()}
    if ids is not None:
        tensors |= {"train_ids": torch.from_numpy(ids.train), "val_ids": torch.from_numpy(ids.val)}
        tensors["split"] = torch.frombuffer(bytearray.fromhex(ids.sha256), dtype=torch.uint8)
    save_tensors(path, tensors)


def load_latents(path: Path, device: torch.device, ids: SampleIds | None = None) -> Latents:
    """Latents of the frozen encoder, on the training device.

    Args:
        path: what ``save_latents`` wrote.
        device: to put them on.
        ids: the samples wanted, in order; None: all.

    Raises:
        StageError: the file is of another split, or lacks one of the samples.
    """
    stored = load_tensors(path)
    if ids is None:
        return Latents(**{side: stored[side].clone().to(device) for side in ("train", "val")})
    if "split" in stored and ids.sha256 and bytes(stored["split"].tolist()).hex() != ids.sha256:
        raise _other_samples(path)
    rows = {side: _rows(path, stored, side, getattr(ids, side)) for side in ("train", "val")}
    return Latents(**{side: stored[side][chosen].to(device) for side, chosen in rows.items()})


def _rows(path: Path, stored: Mapping[str, Tensor], side: str, ids: np.ndarray) -> Tensor:
    """Where the latents of these samples lie."""
    if f"{side}_ids" not in stored:  # ubq 0.1.0 kept no ids: by position
        if len(stored[side]) != len(ids):
            raise _other_samples(path)
        return torch.arange(len(ids))
    row_of = {sample: row for row, sample in enumerate(map(tuple, stored[f"{side}_ids"].tolist()))}
    try:
        return torch.tensor([row_of[sample] for sample in map(tuple, ids.tolist())], dtype=torch.int64)
    except KeyError:
        raise _other_samples(path) from None


def _other_samples(path: Path) -> StageError:
    return StageError(
        _("{path} is not of the samples that the stage prepare chose").format(path=path),
        _("remove the file and resume: its stage runs again"),
    )
