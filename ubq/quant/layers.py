"""Fake-quantised layers: float weights in, the arithmetic of the integer kernels out.

Weights are int8, symmetric, -127..127, one scale per output channel or per tensor, recomputed from
the weights at every call. Activations are unsigned 8 bit (7 for the fbgemm backend), one scale and
zero point a tensor. Gradients pass rounding straight through (Bengio et al. 2013); a weight never
leaves its grid, since the grid is stretched to the largest, so its gradient needs no mask.

Shapes: B batch, C channels, O outputs, I inputs; activations may have more dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ubq.config.schema import QuantConfig
from ubq.distributed import sharing
from ubq.quant.observers import SMALLEST_SCALE, RangeObserver

WEIGHT_LEVELS = 127
PHASES = ("float", "calibrate", "observe", "weights", "activations", "frozen")
OBSERVING = ("observe", "weights", "activations")
"""Phases in which observers take in what they see, in training mode; ``calibrate`` does in every mode."""
WEIGHTS_QUANTISED = ("weights", "activations", "frozen")
ACTIVATIONS_QUANTISED = ("activations", "frozen")
BIAS_LIMIT = float(1 << 30)
"""Largest bias in units of input scale x weight scale: qnnpack holds it in 32 bits."""
CHUNK = 1 << 19
"""Weight elements that the recomputing linear layer holds on the grid at a time: they stay in cache."""
CHUNK_ON_GPU = 1 << 25
"""The same on a GPU, where a kernel costs more to start than a small chunk to compute: 134 MB."""
RECOMPUTE_ABOVE = 1 << 24
"""Linear layers with more weights than this never hold all of them on the grid."""


def activation_levels(quant: QuantConfig) -> int:
    """Highest level of an activation: fbgemm without VNNI adds pairs of products in 16 bits, so it gets 7 bits."""
    return 127 if quant.backend == "fbgemm" else 255


def weight_scale(weight: Tensor, per_channel: bool, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
    """Scales (O,) float32 of a weight (O, ...): the largest magnitude of a channel, or of the tensor, is 127.

    A channel whose weights are so small that its bias would not fit 32 bits gets a larger scale.
    """
    rows = weight.detach().flatten(1)
    # two reductions read the weight twice; the absolute values would write a second one
    largest = torch.maximum(rows.amax(dim=1), -rows.amin(dim=1)).float()
    if not per_channel:
        largest = largest.max().expand_as(largest)
    scale = (largest / WEIGHT_LEVELS).clamp(min=SMALLEST_SCALE)
    if bias is not None and input_scale is not None:
        floor = bias.detach().abs().float() / (input_scale * BIAS_LIMIT)
        scale = torch.maximum(scale, floor if per_channel else floor.max())
    return scale.contiguous()


def to_grid(weight: Tensor, scale: Tensor) -> Tensor:
    """Integer levels, as floats, of a weight (O, ...) with its own scales (O,), which leave none above 127."""
    inverse = (1.0 / scale).reshape(-1, *[1] * (weight.dim() - 1))
    return (weight * inverse).round_()


class _FakeQuantWeight(torch.autograd.Function):
    """Weight on its grid; the gradient passes unchanged and nothing is saved for it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        return to_grid(weight, scale).mul_(scale.reshape(-1, *[1] * (weight.dim() - 1)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _FakeQuantOnCpu(torch.autograd.Function):
    """``fake_quantize_per_tensor_affine``, to the bit, in whole-tensor passes that vectorise: 5 times faster.

    x of any shape; values outside the grid get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int, levels: int) -> Tensor:
        lowest, highest = -zero_point, levels - zero_point
        ctx.save_for_backward(x)
        ctx.inside = ((lowest - 0.5) * scale, (highest + 0.5) * scale)
        return (x * _inverse(scale)).round_().clamp_(lowest, highest).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grads[0], x, *ctx.inside), None, None, None


def _inverse(scale: float) -> float:
    """1 / scale in float32, as the kernels have it."""
    return float(np.float32(1.0) / np.float32(scale))


def fake_quantise(x: Tensor, scale: Tensor, zero_point: Tensor, levels: int) -> Tensor:
    """Activations x (any shape, float32) on the grid 0..levels of a scalar scale and zero point."""
    if x.device.type == "cpu":
        return _FakeQuantOnCpu.apply(x, float(scale), int(zero_point), levels)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, levels)


class _RecomputedLinear(torch.autograd.Function):
    """x @ fake_quantised(weight).T + bias, with the quantised weight made anew, in chunks, in each direction.

    Holds no second copy of the weight. x (B, I), weight (O, I), scale (O,), bias (O,).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.has_bias = bias is not None
        out = x.new_empty(x.shape[0], weight.shape[0])
        for rows, levels in _grid_chunks(weight, scale):
            out[:, rows] = x @ levels.t()
        out.mul_(scale)
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None]:
        x, weight, scale = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x = None
        if ctx.needs_input_grad[0]:
            scaled = grad * scale
            grad_x = torch.zeros_like(x)
            for rows, levels in _grid_chunks(weight, scale):
                grad_x.addmm_(scaled[:, rows], levels)
        grad_weight = grad.t() @ x if ctx.needs_input_grad[1] else None
        grad_bias = grad.sum(dim=0) if ctx.has_bias and ctx.needs_input_grad[3] else None
        return grad_x, grad_weight, None, grad_bias


def _grid_chunks(weight: Tensor, scale: Tensor) -> Any:
    """(rows, levels) over a weight (O, I); ``levels`` is one buffer that the next chunk overwrites."""
    outputs, inputs = weight.shape
    step = max(1, (CHUNK if weight.device.type == "cpu" else CHUNK_ON_GPU) // inputs)
    buffer = weight.new_empty(min(step, outputs), inputs)
    inverse = (1.0 / scale).unsqueeze(1)
    for first in range(0, outputs, step):
        rows = slice(first, min(first + step, outputs))
        levels = buffer[: rows.stop - first]
        torch.mul(weight[rows], inverse[rows], out=levels)
        yield rows, levels.round_()


class ActivationQuantizer(nn.Module):
    """An observer and the grid it gives, applied to one tensor.

    Attributes:
        rectified: a ReLU follows, so that the grid begins at zero and spends no level on what is dropped.
    """

    def __init__(self, quant: QuantConfig) -> None:
        super().__init__()
        self.observer = RangeObserver(quant, activation_levels(quant))
        self.rectified = False

    def kept(self, x: Tensor) -> Tensor:
        """What comes to use of x, any shape."""
        return x.clamp(min=0.0) if self.rectified else x

    def forward(self, x: Tensor, phase: str) -> Tensor:
        """Any shape; float32 out, whatever autocast says."""
        if phase == "calibrate" or (self.training and phase in OBSERVING):
            self.observer.observe(self.kept(x.float()))  # under autocast x may be of half width
        if phase not in ACTIVATIONS_QUANTISED:
            return x
        scale, zero_point = self.observer.grid()
        with torch.autocast(x.device.type, enabled=False):
            return fake_quantise(x.float(), scale, zero_point, self.observer.levels)


class QuantLayer(nn.Module):
    """A weight layer that computes as its integer version will.

    Takes over the float layer's parameters. ``phase`` is kept in a buffer, so that a state dict
    restores it.

    Args:
        layer: the float layer.
        quant: scheme, backend, observer.
    """

    weight: Tensor
    bias: Tensor | None
    phase_index: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, quant: QuantConfig) -> None:
        super().__init__()
        # the layer's own parameters: an optimiser or average that holds them goes on holding them
        self.register_parameter("weight", layer._parameters["weight"])
        self.register_parameter("bias", layer._parameters["bias"])
        self.per_channel = quant.scheme == "aggressive"
        self.levels = activation_levels(quant)
        self.register_buffer("phase_index", torch.zeros((), dtype=torch.int64))
        self._phase = PHASES[0]

    @property
    def phase(self) -> str:
        """One of ``PHASES``."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self.phase_index.fill_(PHASES.index(phase))
        self._phase = phase

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}phase_index" in state_dict:
            self._phase = PHASES[int(state_dict[f"{prefix}phase_index"])]

    def input_scale(self) -> Tensor | None:
        """Scale of the input's grid; None where it changes with every call."""
        return None

    def kept(self, output: Tensor) -> Tensor:
        """What comes to use of the layer's output."""
        return output

    def weight_scales(self, input_scale: Tensor | None) -> Tensor:
        """(O,) float32, from the weights as they are; ``input_scale`` None: before inputs are on a grid."""
        return weight_scale(self.weight, self.per_channel, self.bias, input_scale)

    def _scales(self) -> Tensor:
        return self.weight_scales(self.input_scale() if self._phase in ACTIVATIONS_QUANTISED else None)

    def quantised_weight(self) -> Tensor:
        """The weight this call computes with."""
        if self._phase not in WEIGHTS_QUANTISED:
            return self.weight
        with torch.autocast(self.weight.device.type, enabled=False):
            return _FakeQuantWeight.apply(self.weight, self._scales())

    def observers(self) -> list[RangeObserver]:
        """The layer's observers."""
        return [m for m in self.modules() if isinstance(m, RangeObserver)]


class StaticQuantLayer(QuantLayer):
    """A layer whose input and output are both on calibrated grids."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, quant: QuantConfig) -> None:
        super().__init__(layer, quant)
        self.input = ActivationQuantizer(quant)
        self.output = ActivationQuantizer(quant)

    def input_scale(self) -> Tensor | None:
        return self.input.observer.grid()[0]

    def kept(self, output: Tensor) -> Tensor:
        return self.output.kept(output)


class QConv2d(StaticQuantLayer):
    """Conv2d, quint8 in, quint8 out."""

    def __init__(self, layer: nn.Conv2d, quant: QuantConfig) -> None:
        super().__init__(layer, quant)
        self.stride, self.padding, self.dilation, self.groups = conv_geometry(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W')."""
        x = self.input(x, self._phase)
        y = F.conv2d(x, self.quantised_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self.output(y, self._phase)


class QLinear(StaticQuantLayer):
    """Linear, quint8 in, quint8 out."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        x = self.input(x, self._phase)
        return self.output(F.linear(x, self.quantised_weight(), self.bias), self._phase)


class QLinearDynamic(QuantLayer):
    """Linear whose input grid is that of each call's own range and whose output stays float.

    For outputs that eight bits would spoil: the seismic head's reach over four orders of magnitude.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        if self._phase in ACTIVATIONS_QUANTISED:
            x = self._on_own_grid(x)
        if self._phase not in WEIGHTS_QUANTISED or self.weight.numel() <= RECOMPUTE_ABOVE:
            return F.linear(x, self.quantised_weight(), self.bias)
        with torch.autocast(x.device.type, enabled=False):
            flat = x.float().reshape(-1, x.shape[-1])
            out = _RecomputedLinear.apply(flat, self.weight, self._scales(), self.bias)
        return out.reshape(*x.shape[:-1], -1)

    def _on_own_grid(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            low, high = torch.aminmax(x.detach())
            group = sharing()
            if group is not None:
                low, high = group.range(low, high)
            # float64, as the integer kernels choose their own grid
            low, high = low.clamp(max=0.0).double(), high.clamp(min=0.0).double()
            scale = (high - low) / self.levels
            scale = torch.where(scale > 0, scale, torch.full_like(scale, 0.1))
            zero_point = (-(low / scale)).round().clamp(0, self.levels).to(torch.int32)
            return fake_quantise(x, scale.float(), zero_point, self.levels)


def conv_geometry(conv: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    """Stride, padding, dilation, groups.

    Raises:
        ValueError: padding that integer kernels do not have (by name, or not with zeros).
    """
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        raise ValueError("integer convolutions pad with zeros, by numbers")
    (s1, s2), (p1, p2), (d1, d2) = conv.stride, conv.padding, conv.dilation
    return (s1, s2), (p1, p2), (d1, d2), conv.groups


def conv2d_of(
    weight: nn.Parameter,
    bias: nn.Parameter | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution around parameters that are there: weight (O, I / groups, K, K'), bias (O,)."""
    outputs, inputs, height, width = weight.shape
    with torch.device("meta"):
        conv = nn.Conv2d(
            inputs * groups, outputs, (height, width), stride, padding, dilation, groups, bias=bias is not None
        )
    conv.weight, conv.bias = weight, bias
    return conv
