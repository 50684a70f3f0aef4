"""Building blocks that the encoder and both decoders share.

Shapes: B batch, C channels, H height, W width, L latent length.
"""

from __future__ import annotations

from torch import Tensor, nn

LEAKY_SLOPE = 0.2
"""Negative slope of the projectors' LeakyReLU."""


class ConvBlock(nn.Module):
    """Convolution or transposed convolution, BatchNorm, activation.

    The three are separate leaves, so that a BatchNorm can be folded and replaced by an identity.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return self.activation(self.norm(self.conv(x)))


class Projector(nn.Module):
    """From the latent to the input of one decoder: Linear, BatchNorm, LeakyReLU."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent, channels)
        self.norm = nn.BatchNorm1d(channels)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, L) or (B, L, 1, 1) -> (B, C, 1, 1)."""
        x = self.activation(self.norm(self.linear(latent.flatten(1))))
        return x.unsqueeze(-1).unsqueeze(-1)
