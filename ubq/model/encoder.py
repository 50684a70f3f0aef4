"""Encoder: velocity map -> latent. It trains the rest of the model and is not deployed.

Shapes: B batch, L latent length; maps are 70 x 70 cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ubq.model.layers import ConvBlock


class VelocityEncoder(nn.Module):
    """Fifteen convolution blocks, 70 x 70 -> 35 -> 18 -> 16 -> 8 -> 4 -> 2 -> 1 x 1; tanh bounds the latent.

    Args:
        dims: channels of the four widths.
        latent: length L of the latent.
    """

    def __init__(self, dims: Sequence[int], latent: int) -> None:
        super().__init__()
        d1, d2, d3, d4 = dims
        self.blocks = nn.Sequential(
            _conv(1, d1, 1), _conv(d1, d1, 3),
            _conv(d1, d2, 3, stride=2), _conv(d2, d2, 1),
            _conv(d2, d2, 3), _conv(d2, d2, 1),
            _conv(d2, d3, 3, stride=2), _conv(d3, d3, 1),
            ConvBlock(nn.Conv2d(d3, d3, 3), nn.ReLU()), _conv(d3, d3, 1),
            _conv(d3, d4, 3, stride=2), _conv(d4, d4, 1),
            _conv(d4, d4, 3, stride=2), _conv(d4, d4, 3, stride=2),
            ConvBlock(nn.Conv2d(d4, latent, 3, stride=2, padding=1), nn.Tanh()),
        )  # fmt: skip

    def forward(self, velocity: Tensor) -> Tensor:
        """Normalised velocity (B, 1, 70, 70) -> latent (B, L, 1, 1) in (-1, 1)."""
        return self.blocks(velocity)


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> ConvBlock:
    return ConvBlock(nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2), nn.ReLU())
