"""Random draws that depend on (seed, stage, global sample index) alone.

A draw never comes from a global stream, so a resumed run repeats an uninterrupted one, and ranks
that share the samples of a step would draw what one rank draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 63) - 1
_WORD = 64
_GOLDEN = 0x9E3779B97F4A7C15
"""The golden ratio's fractional part in units of 2^-64: its multiples spread most evenly over the unit interval."""


def key(*parts: int | str) -> int:
    """A 63-bit seed from any parts, the same on every machine."""
    text = "\x1f".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") & _MASK


def seeded_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by ``key``."""
    return torch.Generator().manual_seed(key(*parts))


class SampleOrder:
    """Which training sample a global sample index means: a fresh permutation every epoch."""

    def __init__(self, samples: int, seed: int, stage: str) -> None:
        if samples < 1:
            raise ValueError("no training samples")
        self.samples, self.seed, self.stage = samples, seed, stage
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def __call__(self, global_indices: Sequence[int]) -> Tensor:
        """Sample numbers, (B,) int64."""
        return torch.stack([self._sample(g) for g in global_indices])

    def _sample(self, g: int) -> Tensor:
        epoch, position = divmod(g, self.samples)
        if epoch != self._epoch:
            rng = seeded_generator(self.seed, self.stage, "order", epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.samples, generator=rng)
        return self._permutation[position]


class SampleDraws:
    """Noise and time steps for the samples of one step, keyed by their global indices.

    Args:
        batch: indices of all samples that are worked on at once, where other processes have some of them.
    """

    def __init__(
        self, seed: int, stage: str, global_indices: Sequence[int], batch: Sequence[int] | None = None
    ) -> None:
        self._whole = None if batch is None or batch is global_indices else (seed, stage, batch)
        self._indices, self._offset = list(global_indices), key(seed, stage, "times")
        self._generators = [seeded_generator(seed, stage, "draws", g) for g in global_indices]

    def of_batch(self) -> SampleDraws:
        """Those of every process's samples, from the beginning; these where there is no other process."""
        return SampleDraws(*self._whole) if self._whole else self

    def time_steps(self, steps: int) -> Tensor:
        """Diffusion time steps in [0, steps), (B,) int64: one a sample, each as likely as any other.

        A Kronecker sequence over the global indices, so that those of a batch spread evenly, which takes variance off
        the gradient (the low-discrepancy sampler of Kingma et al., 2021, Variational Diffusion Models; here a
        sample's own does not depend on its batch).
        """
        points = [(self._offset + g * _GOLDEN) % 2**_WORD for g in self._indices]
        return torch.tensor([point * steps >> _WORD for point in points])

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), (B, *shape) int64: one a sample where no shape is given."""
        return torch.stack([torch.randint(high, shape, generator=g) for g in self._generators])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, (B, *shape) float32."""
        return torch.stack([torch.randn(shape, generator=g) for g in self._generators])

    def shared_normal(self, *shape: int) -> Tensor:
        """Standard normal noise that all samples share, (*shape) float32, keyed by the first of them."""
        return torch.randn(shape, generator=self._generators[0])

    def shared_integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high) that all samples share, (*shape) int64, keyed by the first of them."""
        return torch.randint(high, shape, generator=self._generators[0])
