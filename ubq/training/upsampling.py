"""Kernels of a velocity decoder that put no grid on a map.

A transposed convolution of kernel 4 and stride 2 computes even and odd cells with different taps, and what makes the
two differ is drawn as a grid of dots (Odena et al. 2016, Deconvolution and checkerboard artifacts). A kernel that is
[1, 2, 1] along each axis, convolved with 2 x 2 taps of its own, first interpolates and then convolves, so that a grid
is what it damps most; its zeros at the highest frequency are what Sugawara et al. 2018 (Super-resolution using
convolutional neural networks without any checkerboard artifacts) add as a layer. Kernels here stay of the usual shape.
They are only kept in that space, so nothing downstream has to know.

A ReLU after them makes detail of two cells again, which the next kernel of 3 x 3 taps passes on, to be drawn beside
every interface; one that is [1, 1] along each axis, convolved with 2 x 2 taps, is blind to it
(studies/lattice_and_variogram.md).

Suffixes: I input channels, O output channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ubq.model.velocity import VelocityDecoder
from ubq.quant.rewrites import ShuffledTransposed, kernel_of_shuffled, shuffled_kernel

INTERPOLATION = (1.0, 2.0, 1.0)
BLIND = (1.0, 1.0)
"""Zero for what changes its sign from cell to cell."""
FIRST_BLIND = -4
"""Block of the decoder from which on 3 x 3 kernels are blind: the last two levels'."""
FREE_TAPS = 2
KERNEL = 4
TOLERANCE = 1e-4
"""Share of a kernel outside the space up to which it is taken as lying in it; folding a BatchNorm only scales it."""


class SmoothUpsampling:
    """Transposed convolutions below a model, kept among the kernels that interpolate, and the output and last levels of
    its velocity decoder, kept blind to detail of two cells.

    Args:
        model: as trained, or with its layers rewritten for integer kernels.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [layer for layer in model.modules() if _upsampling(layer)]
        decoders = [module for module in model.modules() if isinstance(module, VelocityDecoder)]
        blocks = [block for decoder in decoders for block in (*list(decoder.blocks)[FIRST_BLIND:], decoder.output)]
        self.blind = [layer for block in blocks for layer in block.modules() if _of_three(layer)]

    @torch.no_grad()
    def hold(self) -> None:
        """Move every kernel to the nearest one that is allowed, and what was one bias back to one."""
        for layer in self.layers:
            _set_kernel(layer, interpolating(_kernel(layer)))
        for layer in self.blind:
            weight, _bias = _weights(layer)
            weight.copy_(blind(weight))

    @torch.no_grad()
    def let_go(self) -> None:
        """Leave out every layer whose kernel is not among those allowed: it was trained without this."""
        self.layers = [layer for layer in self.layers if _held(_kernel(layer), interpolating)]
        self.blind = [layer for layer in self.blind if _held(_weights(layer)[0], blind)]


def interpolating(kernel_IO44: Tensor) -> Tensor:
    """The nearest kernel (I, O, 4, 4) that is [1, 2, 1] along both axes, convolved with 2 x 2 taps."""
    return _nearest(kernel_IO44, INTERPOLATION)


def blind(kernel_OI33: Tensor) -> Tensor:
    """The nearest kernel (O, I, 3, 3) that is [1, 1] along both axes, convolved with 2 x 2 taps."""
    return _nearest(kernel_OI33, BLIND)


def _held(kernel: Tensor, nearest: Callable[[Tensor], Tensor]) -> bool:
    return float((kernel - nearest(kernel)).norm()) <= TOLERANCE * float(kernel.norm())


def _nearest(kernel: Tensor, factor: tuple[float, ...]) -> Tensor:
    return (kernel.flatten(2) @ _projection(factor, kernel.dtype, kernel.device)).reshape(kernel.shape)


@functools.cache
def _projection(factor: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N, N), symmetric: onto the square kernels of N taps that have the factor along both axes."""
    line = torch.zeros(len(factor) + FREE_TAPS - 1, FREE_TAPS, dtype=torch.float64)
    for tap in range(FREE_TAPS):
        line[tap : tap + len(factor), tap] = torch.tensor(factor)
    line = line @ torch.linalg.pinv(line)
    return torch.kron(line, line).to(device, dtype)


def _upsampling(module: nn.Module) -> bool:
    if isinstance(module, ShuffledTransposed):
        return True
    return isinstance(module, nn.ConvTranspose2d) and (module.kernel_size, module.stride) == ((KERNEL, KERNEL), (2, 2))


def _of_three(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.shape[2:] == (3, 3)


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as they are stored; a quantised layer keeps its own under the same names."""
    inner: Any = layer.conv if isinstance(layer, ShuffledTransposed) else layer
    return inner.weight, inner.bias


def _kernel(layer: nn.Module) -> Tensor:
    weight, _bias = _weights(layer)
    return kernel_of_shuffled(weight) if isinstance(layer, ShuffledTransposed) else weight


def _set_kernel(layer: nn.Module, kernel: Tensor) -> None:
    weight, bias = _weights(layer)
    if not isinstance(layer, ShuffledTransposed):
        weight.copy_(kernel)
        return
    weight.copy_(shuffled_kernel(kernel))
    if bias is not None:  # one bias of a transposed convolution, four times
        bias.copy_(bias.reshape(-1, 4).mean(1).repeat_interleave(4))
