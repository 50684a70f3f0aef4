"""From a rewritten float generator to a fake-quantised one, and its calibration."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable

import torch
from torch import nn

from ubq.config.schema import QuantConfig
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.model.layers import ConvBlock
from ubq.quant.generator import Generator, part_of
from ubq.quant.layers import QConv2d, QLinear, QLinearDynamic, QuantLayer, StaticQuantLayer, conv2d_of
from ubq.quant.phases import phase_set, quant_layers
from ubq.quant.ten_bit import offset_grids

WEIGHT_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
FLOAT_OUTPUT = ("seismic_decoder.output",)
"""Linears whose output stays float: rounding the gather itself to 8 bits would cost 4 % after 0.6 s."""


def is_time_mlp(name: str) -> bool:
    """Whether a layer of the U-Net depends on the time step alone."""
    return name.startswith("unet.") and ("time_mlp" in name.split(".") or "mlp" in name.split("."))


def why_float(name: str, layer: nn.Module, quant: QuantConfig) -> str:
    """Why a weight layer stays in float; empty when it is quantised."""
    part = part_of(name)
    if part and not getattr(quant, part):
        return f"quant.{part} is off"
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in quant.keep_float):
        return "quant.keep_float"
    if quant.time_tables and is_time_mlp(name):
        return "becomes a table over the sampler's steps"
    if isinstance(layer, nn.Conv1d):
        return "Conv1d not converted (quant.convert_conv1d is off)"
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return "no portable integer kernel (quant.convert_transposed is off)"
    return ""


def prepare_qat(generator: Generator, quant: QuantConfig) -> None:
    """Swap the generator's weight layers for fake-quantised ones, in place, in phase ``float``.

    Layers that are fake-quantised already stay as they are.

    Raises:
        UsageError: a pattern of ``quant.keep_float`` matches no layer.
    """
    names = [n for n, m in generator.named_modules() if isinstance(m, (*WEIGHT_LAYERS, QuantLayer))]
    for pattern in quant.keep_float:
        if not fnmatch.filter(names, pattern):
            raise UsageError(
                _("quant.keep_float: no layer is called {pattern}").format(pattern=pattern),
                _("list the names with: ubq quant analyze RUN"),
            )
    for name in names:
        layer = generator.get_submodule(name)
        if not isinstance(layer, QuantLayer) and not why_float(name, layer, quant):
            generator.set_submodule(name, _quantised(name, layer, quant))
    _mark_rectified(generator)
    generator.train(generator.training)  # the new layers too


def _mark_rectified(generator: Generator) -> None:
    """Tell the layers that a ReLU follows at once."""
    for block in generator.modules():
        if not isinstance(block, ConvBlock) or not isinstance(block.norm, nn.Identity):
            continue
        for layer in block.conv.modules():
            if isinstance(layer, StaticQuantLayer):
                layer.output.rectified = isinstance(block.activation, nn.ReLU)


def _quantised(name: str, layer: nn.Module, quant: QuantConfig) -> QuantLayer:
    if part_of(name) != "diffusion" and quant.decoder_observer != "same":
        quant = quant.model_copy(update={"observer": quant.decoder_observer})
    if isinstance(layer, nn.Conv2d):
        return QConv2d(layer, quant)
    assert isinstance(layer, nn.Linear)
    return (QLinearDynamic if name in FLOAT_OUTPUT else QLinear)(layer, quant)


@torch.no_grad()
def calibrate(model: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """Measure every activation range below ``model`` anew; phases and modes come back as they were.

    Args:
        model: generator or a part of it.
        passes: forward passes over calibration batches, one call each. Time steps of the U-Net are
            drawn by the caller the way the sampler visits them: from ``generator.sampler.times``.
    """
    for layer in quant_layers(model).values():
        for observer in layer.observers():
            observer.reset()
    with phase_set(model, "calibrate"):
        for forward in passes:
            forward()
    offset_grids(model)


def kept_float(generator: Generator, quant: QuantConfig) -> tuple[str, ...]:
    """``quant.keep_float`` with every further layer that is in float although nothing else keeps it there."""
    others = [
        name
        for name, layer in generator.named_modules()
        if isinstance(layer, WEIGHT_LAYERS) and not why_float(name, layer, quant)
    ]
    return (*quant.keep_float, *others)


def restore_float(generator: Generator, names: Iterable[str]) -> None:
    """Put float layers with the same weights back in place of fake-quantised ones."""
    for name in names:
        layer = generator.get_submodule(name)
        assert isinstance(layer, QuantLayer)
        generator.set_submodule(name, _float_layer(layer).train(layer.training))


def _float_layer(layer: QuantLayer) -> nn.Module:
    """With the layer's own parameters: an optimiser or average that holds them goes on holding them."""
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    assert weight is not None
    if isinstance(layer, QConv2d):
        return conv2d_of(weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.weight, linear.bias = weight, bias  # type: ignore[assignment]  # None where it has none
    return linear
