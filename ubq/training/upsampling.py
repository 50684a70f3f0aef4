"""Kernels of transposed convolutions that put no grid on a map.

A transposed convolution of kernel 4 and stride 2 computes even and odd cells with different taps, and what makes the
two differ is drawn as a grid of dots (Odena et al. 2016, Deconvolution and checkerboard artifacts). A kernel that is
[1, 2, 1] along each axis, convolved with 2 x 2 taps of its own, first interpolates and then convolves, so that a grid
is what it damps most; its zeros at the highest frequency are what Sugawara et al. 2018 (Super-resolution using
convolutional neural networks without any checkerboard artifacts) add as a layer. Kernels here stay of the usual shape.
They are only kept in that space, so nothing downstream has to know.

Suffixes: I input channels, O output channels.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ubq.quant.rewrites import ShuffledTransposed, kernel_of_shuffled, shuffled_kernel

INTERPOLATION = (1.0, 2.0, 1.0)
KERNEL = 4
TOLERANCE = 1e-4
"""Share of a kernel outside the space up to which it is taken as lying in it; folding a BatchNorm only scales it."""


class SmoothUpsampling:
    """The transposed convolutions below a model, kept among the kernels that interpolate.

    Args:
        model: as trained, or with its transposed convolutions rewritten for integer kernels.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [layer for layer in model.modules() if _upsampling(layer)]

    @torch.no_grad()
    def hold(self) -> None:
        """Move every kernel to the nearest one that interpolates, and what was one bias back to one."""
        for layer in self.layers:
            _set_kernel(layer, interpolating(_kernel(layer)))

    @torch.no_grad()
    def held(self) -> bool:
        """Does every kernel interpolate already?"""
        kernels = [_kernel(layer) for layer in self.layers]
        return all(float((k - interpolating(k)).norm()) <= TOLERANCE * float(k.norm()) for k in kernels)


def interpolating(kernel_IO44: Tensor) -> Tensor:
    """The nearest kernel (I, O, 4, 4) that is [1, 2, 1] along both axes, convolved with 2 x 2 taps."""
    projection = _projection(kernel_IO44.dtype, kernel_IO44.device)
    return (kernel_IO44.flatten(2) @ projection).reshape(kernel_IO44.shape)


@functools.cache
def _projection(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(16, 16), symmetric: onto the interpolating kernels."""
    line = torch.zeros(KERNEL, 2, dtype=torch.float64)
    for tap in range(2):
        line[tap : tap + len(INTERPOLATION), tap] = torch.tensor(INTERPOLATION)
    line = line @ torch.linalg.pinv(line)
    return torch.kron(line, line).to(device, dtype)


def _upsampling(module: nn.Module) -> bool:
    if isinstance(module, ShuffledTransposed):
        return True
    return isinstance(module, nn.ConvTranspose2d) and (module.kernel_size, module.stride) == ((KERNEL, KERNEL), (2, 2))


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
