"""Velocity decoder: projected latent -> velocity map.

Shapes: B batch, C channels of the projector; maps are 70 x 70 cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ubq.model.layers import ConvBlock

MAP_SIZE = 70
"""Cells of a velocity map along depth and along x."""
GROWN_SIZE = 80
"""Cells after the last transposed convolution; the border is cropped."""


class VelocityDecoder(nn.Module):
    """1 x 1 -> 5 x 5 -> 10 -> 20 -> 40 -> 80 by transposed convolutions, cropped to 70 x 70.

    Args:
        channels: channels of the input.
        dims: channels of the five levels, from the output (80 x 80) to the input (5 x 5).
    """

    def __init__(self, channels: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.first = (GROWN_SIZE - MAP_SIZE) // 2
        self.end = self.first + MAP_SIZE
        levels = list(reversed(dims))
        blocks = [ConvBlock(nn.ConvTranspose2d(channels, levels[0], 5, stride=2), nn.ReLU()), _conv(levels[0])]
        for c_in, c_out in pairwise(levels):
            blocks += [ConvBlock(nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1), nn.ReLU()), _conv(c_out)]
        self.blocks = nn.Sequential(*blocks)
        self.output = ConvBlock(nn.Conv2d(levels[-1], 1, 3, padding=1), nn.Tanh())

    def forward(self, projected: Tensor) -> Tensor:
        """(B, C, 1, 1) -> normalised velocity (B, 1, 70, 70) in [-1, 1]."""
        x = self.blocks(projected)
        return self.output(x[:, :, self.first : self.end, self.first : self.end])


def _conv(channels: int) -> ConvBlock:
    return ConvBlock(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
