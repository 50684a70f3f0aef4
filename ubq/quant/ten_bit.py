"""Finer grids at the generator's edges, with 8-bit kernels: the average of several offset roundings.

One tensor on one grid of 8 bits is too coarse in three places. The U-Net's input is the noisy latent, whose rounding
it amplifies by 1 / sigma where little noise is left; its output and the map's are looked at as they are. There
``COPIES`` channels carry the same values, each shifted by another fraction of a level before it is rounded, and their
average has levels ``COPIES`` times finer. The shifts add up to nothing, so the float model stays what it is.

Shapes: B batch, I input channels, O output channels, K copies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ubq.config.schema import QuantConfig
from ubq.model.layers import ConvBlock
from ubq.quant.layers import QConv2d, conv2d_of, conv_geometry
from ubq.quant.rewrites import AddHeight, DropHeight

COPIES = 4
"""Two more bits: what rounding changes falls to a quarter."""
SHIFTS = tuple((i + 0.5) / COPIES - 0.5 for i in range(COPIES))
"""In levels."""


class FineInput(nn.Module):
    """A convolution of one channel, which it reads K times."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv: nn.Module = _with_weight(conv, conv.weight.repeat(1, COPIES, 1, 1), conv.bias)
        self.share: float = 1.0 / COPIES
        self.shifts: Tensor
        self.register_buffer("shifts", conv.weight.new_zeros(COPIES, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, O, H', W')."""
        return self.conv(x * self.share + self.shifts)

    def offset_grids(self, conv: QConv2d) -> None:
        """Shift by fractions of the level that the input's observer gives."""
        self.shifts.copy_(_shifts(conv.input.observer.grid()[0]).reshape(-1, 1, 1))


class FineOutput(nn.Module):
    """A convolution to one channel, which it computes K times."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        bias = conv.weight.new_zeros(1) if conv.bias is None else conv.bias.detach()
        self.conv: nn.Module = _with_weight(conv, conv.weight.repeat(COPIES, 1, 1, 1), bias.repeat(COPIES))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, 1, H', W')."""
        return self.conv(x).mean(dim=1, keepdim=True)

    def offset_grids(self, conv: QConv2d) -> None:
        """Shift by fractions of the level that the output's observer gives."""
        assert conv.bias is not None
        conv.bias.copy_(conv.bias.mean() + _shifts(conv.output.observer.grid()[0]))


def _shifts(scale: Tensor) -> Tensor:
    return scale * torch.tensor(SHIFTS, device=scale.device)


def _with_weight(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    bias_parameter = None if bias is None else nn.Parameter(bias.detach())
    return conv2d_of(nn.Parameter(weight.detach()), bias_parameter, *conv_geometry(conv))


@torch.no_grad()
def add_ten_bit_io(generator: nn.Module, quant: QuantConfig) -> None:
    """Give the quantised parts of a rewritten generator their finer edges, in place."""
    for module in list(generator.modules()):
        conv = getattr(module, "conv", None)
        if not isinstance(conv, nn.Conv2d):
            continue
        if quant.diffusion and isinstance(module, AddHeight):
            module.conv = FineInput(conv)
        elif (quant.diffusion and isinstance(module, DropHeight)) or (
            quant.velocity and isinstance(module, ConvBlock) and conv.out_channels == 1
        ):
            module.conv = FineOutput(conv)


@torch.no_grad()
def offset_grids(model: nn.Module) -> None:
    """Shift the copies below a calibrated ``model`` by fractions of the levels they have now."""
    for module in model.modules():
        if isinstance(module, FineInput | FineOutput) and isinstance(module.conv, QConv2d):
            module.offset_grids(module.conv)
