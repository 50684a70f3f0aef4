"""Hidden channels of one reach, so that the one grid of 8 bits that they share is fine enough for each of them.

ReLU lets positive factors pass: what one layer divides a channel by, the next multiplies its weights with, and the
float model stays what it is (Nagel et al. 2019, arXiv 1906.04721, who balance weights so). Here every channel reaches
as far as the widest of its layer: weights have a scale for each output channel, so they need no share of it.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ubq.model.layers import ConvBlock
from ubq.model.velocity import VelocityDecoder
from ubq.quant.layers import StaticQuantLayer

WIDEST_FACTOR = 32.0
"""A channel that calibration hardly sees is not blown up until what it does elsewhere leaves the grid."""


@torch.no_grad()
def equalise_channels(decoder: VelocityDecoder, passes: Iterable[Callable[[], object]]) -> None:
    """Scale the hidden channels of a rewritten decoder between fake-quantised layers, in place, before calibration.

    Layers that are in float, have a BatchNorm of their own or one scale for all weights stay as they are.

    Args:
        decoder: in phase ``float``.
        passes: forward passes of it over calibration batches, one call each.
    """
    pairs: list[tuple[ConvBlock, StaticQuantLayer, StaticQuantLayer]] = []
    for block, following in pairwise((*decoder.blocks, decoder.output)):
        assert isinstance(block, ConvBlock)
        before, after = _quantised(block), _quantised(following)
        if before is not None and after is not None and before.output.rectified:
            pairs.append((block, before, after))
    for (_block, before, after), reach in zip(pairs, _reaches([pair[0] for pair in pairs], passes), strict=True):
        factors = (reach / reach.max().clamp(min=torch.finfo(reach.dtype).tiny)).clamp(min=1.0 / WIDEST_FACTOR)
        # a channel of a transposed convolution is several of its rewrite, one after the other
        _scale(before.weight, 1.0 / factors.repeat_interleave(len(before.weight) // len(factors)), 0)
        if before.bias is not None:
            _scale(before.bias, 1.0 / factors.repeat_interleave(len(before.bias) // len(factors)), 0)
        _scale(after.weight, factors, 1)


def _scale(tensor: Tensor, factors: Tensor, axis: int) -> None:
    tensor.mul_(factors.reshape([-1 if i == axis else 1 for i in range(tensor.dim())]))


def _quantised(block: nn.Module) -> StaticQuantLayer | None:
    found = [layer for layer in block.modules() if isinstance(layer, StaticQuantLayer) and layer.per_channel]
    return found[0] if found else None


def _reaches(blocks: list[ConvBlock], passes: Iterable[Callable[[], object]]) -> list[Tensor]:
    """Largest value of every channel, (C,), of each block's output (B, C, H, W) over the passes."""
    reaches: dict[nn.Module, Tensor] = {}

    def see(block: nn.Module, _inputs: object, output: Tensor) -> None:
        here = output.amax(dim=(0, 2, 3))
        reaches[block] = torch.maximum(reaches[block], here) if block in reaches else here

    hooks = [block.register_forward_hook(see) for block in blocks]
    try:
        for forward in passes:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return [reaches[block] for block in blocks]
