"""The integer model: int8 weights, scales and zero points, from which every exported file is made.

Shapes: O outputs, I inputs, K kernel; per-tensor weights have one scale and zero point, else O.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ubq.quant.generator import Generator
from ubq.quant.layers import QConv2d, QLinear, QLinearDynamic, QuantLayer, StaticQuantLayer, to_grid
from ubq.quant.observers import RangeObserver
from ubq.quant.phases import quant_layers

Kind = Literal["conv2d", "linear", "linear_dynamic"]
_KINDS: dict[type, Kind] = {QConv2d: "conv2d", QLinear: "linear", QLinearDynamic: "linear_dynamic"}


@dataclass(frozen=True)
class Grid:
    """Unsigned grid of an activation: value = scale x (level - zero_point), level in 0..levels."""

    scale: float
    zero_point: int
    levels: int


@dataclass(frozen=True)
class IntegerLayer:
    """One layer's integers.

    Attributes:
        name: path of the layer in the generator.
        kind: ``linear_dynamic`` chooses its input grid at every call and returns floats.
        weight: int8, (O, I) or (O, I / groups, K, K), -127..127.
        scales: float32, (O,) or (1,).
        zero_points: int64, zeros, like ``scales``.
        bias: float32, (O,).
        input, output: grids; None for ``linear_dynamic``.
        levels: highest level of an activation: 255, or 127 for fbgemm.
        stride, padding, dilation, groups: of a convolution.
    """

    name: str
    kind: Kind
    weight: Tensor
    scales: Tensor
    zero_points: Tensor
    bias: Tensor
    input: Grid | None
    output: Grid | None
    levels: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def per_channel(self) -> bool:
        """Whether every output has its own scale."""
        return len(self.scales) > 1 or self.weight.shape[0] == 1

    def reference(self, levels: Tensor) -> Tensor:
        """What an integer kernel must compute: input levels to output levels, in exact arithmetic.

        Args:
            levels: levels of the input grid, any integer type, (B, I, H, W) or (..., I).

        Returns:
            Levels of the output grid, int64.
        """
        assert self.input is not None
        assert self.output is not None
        centred = levels.double() - self.input.zero_point
        if self.kind == "conv2d":
            total = F.conv2d(centred, self.weight.double(), None, self.stride, self.padding, self.dilation, self.groups)
            shape: tuple[int, ...] = (-1, 1, 1)
        else:
            total = F.linear(centred, self.weight.double())
            shape = (-1,)
        value = total * (self.input.scale * self.scales.double()).reshape(shape) + self.bias.double().reshape(shape)
        level = (value / self.output.scale).round() + self.output.zero_point
        return level.clamp(0, self.levels).to(torch.int64)


@dataclass(frozen=True)
class StoredLayer:
    """What an exported file holds of one layer, read back from it.

    Attributes:
        weight: int8, (O, I) or (O, I / groups, K, K).
        scales: float32, (O,).
        zero_points: (O,); empty where the format has none.
        bias: int32 in units of input scale x weight scale, or float32; (O,).
        input, output: scale and zero point on the unsigned grid; None for ``linear_dynamic``.
    """

    weight: NDArray
    scales: NDArray
    zero_points: NDArray
    bias: NDArray
    input: tuple[float, int] | None
    output: tuple[float, int] | None


def integer_layer(name: str, layer: QuantLayer) -> IntegerLayer:
    """The integers of a calibrated fake-quantised layer; weight scales are those of its weights as they are."""
    source = target = None
    if isinstance(layer, StaticQuantLayer):
        source, target = _grid(name, layer.input.observer), _grid(name, layer.output.observer)
    scales = layer.weight_scales(layer.input_scale()).detach().cpu()
    weight = layer.weight.detach().cpu().float()
    shown = scales if layer.per_channel else scales[:1].clone()
    integers = IntegerLayer(
        name=name,
        kind=_KINDS[type(layer)],
        weight=to_grid(weight, scales).to(torch.int8),
        scales=shown,
        zero_points=torch.zeros(len(shown), dtype=torch.int64),
        bias=weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu().float().clone(),
        input=source,
        output=target,
        levels=layer.levels,
    )
    if not isinstance(layer, QConv2d):
        return integers
    return replace(integers, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)


def _grid(name: str, observer: RangeObserver) -> Grid:
    if int(observer.batches) == 0:
        raise ValueError(f"{name} was never calibrated")
    scale, zero_point = observer.grid()
    return Grid(float(scale), int(zero_point), observer.levels)


def integer_layers(generator: Generator) -> dict[str, IntegerLayer]:
    """The integers of every fake-quantised layer of a generator, in name order.

    Raises:
        ValueError: a layer was never calibrated.
    """
    return {name: integer_layer(name, layer) for name, layer in quant_layers(generator).items()}
