"""Activation ranges: how they are measured, and the 8-bit affine grid they give.

Jacob et al. 2018 (affine quantisation), Krishnamoorthi 2018 (moving averages).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ubq.config.schema import QuantConfig

SAMPLE = 1 << 16
"""Most elements of a batch that a percentile or a search looks at, taken at even spacing."""
SHRINK = tuple(1.0 - 0.025 * i for i in range(21))
"""Shares of the full range that the search for the smallest squared error tries."""
SMALLEST_SCALE = torch.finfo(torch.float32).eps


def affine_grid(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32) of the unsigned grid 0..levels over a range that includes 0."""
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
        """Scale and zero point, scalars."""
        return affine_grid(self.low, self.high, self.levels)

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "moving_average":
            low, high = torch.aminmax(x)
            return low, high
        flat = x.reshape(-1)
        flat = flat[:: -(-flat.numel() // SAMPLE)].float()
        if self.kind == "percentile":
            tails = torch.tensor([1.0 - self.percentile, self.percentile], device=x.device)
            low, high = torch.quantile(flat, tails).unbind()
            return low, high
        low, high = torch.aminmax(flat)
        shrink = torch.tensor(SHRINK, device=x.device)
        lows, highs = low * shrink, high * shrink
        errors = []
        for i in range(len(SHRINK)):
            scale, zero = affine_grid(lows[i], highs[i], self.levels)
            on_grid = torch.fake_quantize_per_tensor_affine(flat, scale, zero, 0, self.levels)
            errors.append((on_grid - flat).square().mean())
        best = torch.stack(errors).argmin()
        return lows[best], highs[best]
