"""Activation ranges: how they are measured, and the 8-bit affine grid they give.

Jacob et al. 2018 (affine quantisation), Krishnamoorthi 2018 (moving averages).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from ubq.config.schema import QuantConfig
from ubq.distributed import sharing

SAMPLE = 1 << 16
"""Most elements of a batch that a percentile or a search looks at, taken at even spacing."""
SHRINK = tuple(1.0 - 0.025 * i for i in range(21))
"""Shares of the full range that the search for the smallest squared error tries."""
SMALLEST_SCALE = torch.finfo(torch.float32).eps


@cache
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on a device, (N,) float32, uploaded once."""
    return torch.tensor(values, device=device)


def affine_grid(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32), of any shape, of the unsigned grid 0..levels over ranges and 0."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / levels).clamp(min=SMALLEST_SCALE)
    return scale, (-(low / scale).round()).clamp(0, levels).to(torch.int32)


class Recording:
    """The grids that observers gave while a part of a model was computed, for computing it again with the same ones.

    A range may have moved on since then, and what is computed again must not be observed twice.
    """

    _active: list[Recording] = []  # the innermost last  # noqa: RUF012

    def __init__(self) -> None:
        self._grids: list[tuple[Tensor, Tensor]] = []
        self._next: Iterator[tuple[Tensor, Tensor]] | None = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep what observers say in the block."""
        with self._entered():
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Observers say in the block what they said in that of ``recorded``, and observe nothing."""
        self._next = iter(self._grids)
        try:
            with self._entered():
                yield
        finally:
            self._next = None

    @contextmanager
    def _entered(self) -> Iterator[None]:
        Recording._active.append(self)
        try:
            yield
        finally:
            Recording._active.remove(self)

    @classmethod
    def replaying(cls) -> bool:
        """Is something computed again?"""
        return any(recording._next is not None for recording in cls._active)

    @classmethod
    def grid_of(cls, observer: RangeObserver) -> tuple[Tensor, Tensor]:
        """The observer's grid: that of a replay where there is one, else as it is now."""
        grid = None
        for recording in reversed(cls._active):
            if recording._next is not None:
                grid = next(recording._next)
                break
        if grid is None:
            grid = observer._present_grid()
        for recording in cls._active:
            if recording._next is None:
                recording._grids.append(grid)
        return grid


class RangeObserver(nn.Module):
    """Moving average of a tensor's range; the first batches are averaged evenly.

    Args:
        quant: which range of a batch is taken (``observer``; the default scheme takes min and max).
        levels: highest level of the grid: 255, or 127 for seven bits.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, quant: QuantConfig, levels: int) -> None:
        super().__init__()
        self.kind = quant.observer if quant.scheme == "aggressive" else "moving_average"
        self.percentile = quant.percentile
        self.averaging_constant = quant.averaging_constant
        self.levels = levels
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._grid: tuple[tuple[Tensor, int, Tensor, int], tuple[Tensor, Tensor]] | None = None

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take in one batch, any shape; nothing where it is computed again (:class:`Recording`)."""
        if Recording.replaying():
            return
        low, high = self._range(x.detach())
        self.batches += 1
        weight = (1.0 / self.batches).clamp(min=self.averaging_constant)
        self.low.lerp_(low, weight)
        self.high.lerp_(high, weight)

    def reset(self) -> None:
        """Forget every batch."""
        for buffer in (self.low, self.high, self.batches):
            buffer.zero_()

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, scalars; of what is computed again those of the first time."""
        return Recording.grid_of(self) if Recording._active else self._present_grid()

    def _present_grid(self) -> tuple[Tensor, Tensor]:
        """Of the range as it is; computed anew only where that has changed."""
        if torch.is_inference(self.low):
            return affine_grid(self.low, self.high, self.levels)
        low, low_version, high, high_version = self.low, self.low._version, self.high, self.high._version
        if self._grid is not None:
            (seen_low, seen_low_version, seen_high, seen_high_version), grid = self._grid
            same = seen_low is low and seen_high is high
            if same and (seen_low_version, seen_high_version) == (low_version, high_version):
                return grid
        grid = affine_grid(low, high, self.levels)
        self._grid = (low, low_version, high, high_version), grid
        return grid

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        group = sharing()
        if self.kind == "moving_average":
            low, high = torch.aminmax(x)
            return (low, high) if group is None else group.range(low, high)
        flat = x.reshape(-1)
        if group is None:
            flat = flat[:: -(-flat.numel() // SAMPLE)].float()
        else:
            flat = group.strided(flat, lambda whole: -(-whole // SAMPLE)).float()
        if self.kind == "percentile":
            tails = _constants((1.0 - self.percentile, self.percentile), x.device)
            low, high = torch.quantile(flat, tails).unbind()
            return low, high
        low, high = torch.aminmax(flat)
        shrink = _constants(SHRINK, x.device)
        lows, highs = low * shrink, high * shrink
        scales, zeros = affine_grid(lows, highs, self.levels)
        every = flat.expand(len(SHRINK), -1)
        on_grid = torch.fake_quantize_per_channel_affine(every, scales, zeros, 0, 0, self.levels)
        best = (on_grid - flat).square().mean(dim=1).argmin(keepdim=True)  # a scalar index would be read by the host
        return lows[best][0], highs[best][0]
