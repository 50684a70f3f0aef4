"""The integers between quantise and dequantise operators: what both ONNX and ExecuTorch are lowered from.

Every integer layer becomes its float operator on dequantised inputs and weights, the output quantised
again (``torch.ops.quantized_decomposed``); the runtime fuses each such group into one integer kernel.
The int8 weight, its scales and its zero points are buffers under the names of ``IntegerLayer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, nn
from torch.nn import functional as F

from ubq.export.lower.integer import Grid, IntegerLayer, integer_layers
from ubq.quant.generator import Generator, shared_copy, with_time_tables
from ubq.runtime.generator import SamplerTables

_Q = torch.ops.quantized_decomposed
SIGNED_OFFSET = 128
"""Signed levels are the unsigned ones less this, and so are their zero points: the same arithmetic."""


@dataclass(frozen=True)
class Dialect:
    """How one runtime wants the same integers written.

    Attributes:
        signed: activations are int8 instead of uint8, levels and zero points moved by ``SIGNED_OFFSET``.
        integer_bias: static layers hold their bias as int32 in units of input scale x weight scale.
        dynamic_linear: module for a ``linear_dynamic`` layer.
    """

    signed: bool
    integer_bias: bool
    dynamic_linear: type[DynamicLinear]


class _Weights(nn.Module):
    """int8 weight, scales, zero points and bias of an integer layer."""

    weight: Tensor
    scales: Tensor
    zero_points: Tensor
    bias: Tensor

    def __init__(self, layer: IntegerLayer) -> None:
        super().__init__()
        outputs = len(layer.weight)
        self.register_buffer("weight", layer.weight)
        # one scale a channel in every scheme: one scale for all is as many equal ones
        self.register_buffer("scales", layer.scales.expand(outputs).contiguous())
        self.register_buffer("zero_points", layer.zero_points.expand(outputs).contiguous())
        self.register_buffer("bias", layer.bias)

    def dequantised_weight(self) -> Tensor:
        """(O, ...) float32."""
        return _Q.dequantize_per_channel(self.weight, self.scales, self.zero_points, 0, -128, 127, torch.int8)


class _StaticLayer(_Weights):
    """A layer between two calibrated grids."""

    bias_scales: Tensor

    def __init__(self, layer: IntegerLayer, dialect: Dialect) -> None:
        super().__init__(layer)
        assert layer.input is not None
        assert layer.output is not None
        self.source, self.target, self.signed = layer.input, layer.output, dialect.signed
        self.integer_bias = dialect.integer_bias
        if self.integer_bias:
            units = self.scales.double() * layer.input.scale
            self.register_buffer("bias", (layer.bias.double() / units).round().to(torch.int32))
            self.register_buffer("bias_scales", units.float())

    def on_grid(self, x: Tensor, grid: Grid) -> Tensor:
        """Floats of any shape, rounded to a grid."""
        offset = SIGNED_OFFSET if self.signed else 0
        args = (grid.scale, grid.zero_point - offset, -offset, 255 - offset, torch.int8 if self.signed else torch.uint8)
        return _Q.dequantize_per_tensor(_Q.quantize_per_tensor(x, *args), *args)

    def clipped(self, x: Tensor, grid: Grid) -> Tensor:
        """Floats cut to a grid of fewer than 256 levels, which neither runtime has; outside the fused group."""
        return x.clamp(max=grid.scale * (grid.levels - grid.zero_point)) if grid.levels < 255 else x

    def dequantised_bias(self) -> Tensor:
        """(O,) float32."""
        if not self.integer_bias:
            return self.bias
        low, high = -(2**31), 2**31 - 1
        return _Q.dequantize_per_channel(self.bias, self.bias_scales, self.zero_points, 0, low, high, torch.int32)


class StaticConv2d(_StaticLayer):
    """Conv2d between two grids."""

    def __init__(self, layer: IntegerLayer, dialect: Dialect) -> None:
        super().__init__(layer, dialect)
        self.stride, self.padding, self.dilation, self.groups = (
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W')."""
        x = self.on_grid(self.clipped(x, self.source), self.source)
        weight, bias = self.dequantised_weight(), self.dequantised_bias()
        y = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return self.clipped(self.on_grid(y, self.target), self.target)


class StaticLinear(_StaticLayer):
    """Linear between two grids; rows are flattened, since only plain matrices have a fused kernel everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        rows = self.clipped(x if x.dim() == 2 else x.flatten(0, -2), self.source)
        y = F.linear(self.on_grid(rows, self.source), self.dequantised_weight(), self.dequantised_bias())
        y = self.clipped(self.on_grid(y, self.target), self.target)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[-1])


class DynamicLinear(_Weights):
    """Linear whose input grid is chosen at every call and whose output stays float; a runtime says how."""


def lower(layer: IntegerLayer, dialect: Dialect) -> nn.Module:
    """The module of one layer."""
    if layer.kind == "linear_dynamic":
        return dialect.dynamic_linear(layer)
    return (StaticConv2d if layer.kind == "conv2d" else StaticLinear)(layer, dialect)


class Step(nn.Module):
    """One U-Net step as a graph of its own; tensors keep the names they have in the generator."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.unet = generator.unet

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Noisy latents (B, 1, L), time steps (B,) -> prediction (B, 1, L)."""
        return self.unet(x, time)


class Decoders(nn.Module):
    """Both decoders as one graph; tensors keep the names they have in the generator."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.velocity_projector = generator.velocity_projector
        self.velocity_decoder = generator.velocity_decoder
        self.seismic_projector = generator.seismic_projector
        self.seismic_decoder = generator.seismic_decoder

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, 1, L) -> velocity in [-1, 1], gather on its logarithmic scale."""
        z = latent.flatten(1)
        velocity = self.velocity_decoder(self.velocity_projector(z))
        return velocity, self.seismic_decoder(self.seismic_projector(z))


def tables(generator: Generator) -> SamplerTables:
    """What a file without the sampler's loop must carry."""
    sampler = generator.sampler
    return SamplerTables(
        latent_length=generator.latent_length,
        stochastic=sampler.stochastic,
        steps=sampler.steps,
        times=sampler.times.tolist(),
        coefficients=sampler.coefficients.tolist(),
        velocity=(generator.velocity_half, generator.velocity_middle),
        log_amplitude=(generator.log_half, generator.log_middle),
    )


def lowered(
    generator: Generator, time_tables: bool, dialect: Dialect, layers: Mapping[str, IntegerLayer] | None = None
) -> Generator:
    """The generator with quantise-dequantise modules in place of its fake-quantised layers.

    Args:
        generator: calibrated; it stays as it is.
        time_tables: replace the time MLPs by tables.
        dialect: of the runtime.
        layers: its integers where they are at hand already.
    """
    new = with_time_tables(generator) if time_tables else shared_copy(generator)
    for name, layer in (integer_layers(generator) if layers is None else layers).items():
        new.set_submodule(name, lower(layer, dialect))
    return new.eval().requires_grad_(False)
