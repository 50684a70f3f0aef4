"""Activation ranges: how they are measured, and the 8-bit affine grid they give.

Jacob et al. 2018 (affine quantisation), Krishnamoorthi 2018 (moving averages).
"""

from __future__ import annotations

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
        """Take in one batch, any shape."""
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
        """Scale and zero point, scalars; computed anew only where the range has changed."""
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
