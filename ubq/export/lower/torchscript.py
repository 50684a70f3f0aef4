"""Lowering to TorchScript: the integers packed for ``torch.ops.quantized``, the sampler scripted around them.

This file alone knows TorchScript and PyTorch's quantised operators, both deprecated upstream. Packed
weights are engine-neutral on disk: they are repacked for ``torch.backends.quantized.engine`` when
the file is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ubq.durable import replacing
from ubq.errors import UsageError
from ubq.export.lower.integer import Grid, IntegerLayer, integer_layers
from ubq.i18n import gettext as _
from ubq.quant.generator import Generator, shared_copy, with_time_tables
from ubq.runtime.facts import FACTS
from ubq.runtime.processor import exact_engine


class _Grids(nn.Module):
    """Input and output grid of an integer layer; a grid of fewer than 256 levels clips explicitly."""

    def __init__(self, packed: torch.ScriptObject, source: Grid, target: Grid) -> None:
        super().__init__()
        self.packed = packed
        self.input_scale, self.input_zero_point = source.scale, source.zero_point
        self.output_scale, self.output_zero_point = target.scale, target.zero_point
        self.clip = source.levels < 255
        self.input_max = source.scale * (source.levels - source.zero_point)
        self.output_max = target.scale * (target.levels - target.zero_point)


class Int8Conv2d(_Grids):
    """Conv2d in integers."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W'), floats on the output grid."""
        if self.clip:
            x = x.clamp(max=self.input_max)
        levels = torch.quantize_per_tensor(x, self.input_scale, self.input_zero_point, torch.quint8)
        y = torch.ops.quantized.conv2d(levels, self.packed, self.output_scale, self.output_zero_point).dequantize()
        return y.clamp(max=self.output_max) if self.clip else y


class Int8Linear(_Grids):
    """Linear in integers."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), floats on the output grid."""
        if self.clip:
            x = x.clamp(max=self.input_max)
        levels = torch.quantize_per_tensor(x, self.input_scale, self.input_zero_point, torch.quint8)
        y = torch.ops.quantized.linear(levels, self.packed, self.output_scale, self.output_zero_point).dequantize()
        return y.clamp(max=self.output_max) if self.clip else y


class Int8LinearDynamic(nn.Module):
    """Linear in integers that chooses its input's grid at every call and returns floats."""

    def __init__(self, packed: torch.ScriptObject, levels: int) -> None:
        super().__init__()
        self.packed = packed
        self.reduce_range = levels < 255

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run quantised operators on the named engine inside the block, or on one that is exact on this processor.

    Raises:
        UsageError: this build of PyTorch does not have it.
    """
    name, supported = exact_engine(name), torch.backends.quantized.supported_engines
    if name not in supported:
        raise UsageError(
            _("this PyTorch has no quantised engine {name}").format(name=name),
            _("set quant.backend to one of {engines}").format(engines=", ".join(e for e in supported if e != "none")),
        )
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def lower_layer(layer: IntegerLayer) -> nn.Module:
    """The module that computes a layer on the current engine."""
    weight = _packed_weight(layer)
    if layer.kind == "conv2d":
        packed = torch.ops.quantized.conv2d_prepack(
            weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )
    else:
        packed = torch.ops.quantized.linear_prepack(weight, layer.bias)
    if layer.kind == "linear_dynamic":
        return Int8LinearDynamic(packed, layer.levels)
    assert layer.input is not None
    assert layer.output is not None
    return (Int8Conv2d if layer.kind == "conv2d" else Int8Linear)(packed, layer.input, layer.output)


def _packed_weight(layer: IntegerLayer) -> Tensor:
    if layer.per_channel:
        scales, zero_points = layer.scales.double(), layer.zero_points
        return torch._make_per_channel_quantized_tensor(layer.weight, scales, zero_points, 0)
    return torch._make_per_tensor_quantized_tensor(layer.weight, float(layer.scales), int(layer.zero_points))


def lower(generator: Generator, time_tables: bool, layers: Mapping[str, IntegerLayer] | None = None) -> Generator:
    """The generator with integer modules in place of its fake-quantised layers, for the current engine.

    Args:
        generator: float or calibrated; it stays as it is.
        time_tables: replace the time MLPs by tables.
        layers: its integers where they are at hand already.

    Returns:
        A generator in evaluation mode; what is not quantised shares the original's tensors.
    """
    lowered = with_time_tables(generator) if time_tables else shared_copy(generator)
    for name, layer in (integer_layers(generator) if layers is None else layers).items():
        lowered.set_submodule(name, lower_layer(layer))
    return lowered.eval()


def script(lowered: nn.Module) -> torch.jit.ScriptModule:
    """A module scripted; PyTorch's deprecation warnings, which a user cannot act on, are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(lowered)


def write_torchscript(
    generator: Generator,
    path: Path,
    backend: str,
    time_tables: bool = True,
    facts: str = "{}",
) -> torch.jit.ScriptModule:
    """Write the generator as one TorchScript file, which needs nothing but torch to load and sample.

    Args:
        generator: float (written as such), or fake-quantised and calibrated.
        path: of the file; it appears whole or not at all.
        backend: engine to pack the weights with; the file loads under every engine.
        time_tables: replace the time MLPs by tables over the sampler's steps.
        facts: JSON kept inside the file under ``FACTS``.

    Returns:
        The scripted generator.

    Raises:
        UsageError: this build of PyTorch lacks the engine.
    """
    with engine(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = script(lower(generator, time_tables))
        with replacing(path) as temporary:
            torch.jit.save(scripted, str(temporary), _extra_files={FACTS: facts})
    return scripted


def load_torchscript(path: Path, backend: str) -> torch.jit.ScriptModule:
    """Load an exported file under an engine; call it inside ``engine(backend)`` too.

    Raises:
        UsageError: not a TorchScript file, or an engine this PyTorch lacks.
    """
    with engine(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                _("{path} is not a TorchScript file").format(path=path), _("give the .pt of exported_models")
            ) from error
