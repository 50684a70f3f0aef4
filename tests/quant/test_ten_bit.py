"""Staggered roundings at the generator's edges: nothing in float, finer grids in int8."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import VARIANTS, calibrated, tiny_model, tiny_recipe
from torch import Tensor, nn

from ubq.config.schema import QuantConfig
from ubq.quant.layers import QConv2d, QuantLayer
from ubq.quant.phases import phase_set, quant_layers, set_phase
from ubq.quant.prepare import calibrate
from ubq.quant.ten_bit import COPIES, FineInput, FineOutput, offset_grids


class Unrounded(nn.Module):
    """In place of one tensor's rounding."""

    def forward(self, x: Tensor, phase: str) -> Tensor:
        return x


def rounding(layer: nn.Module, side: str, x: Tensor) -> float:
    """Root mean square of what rounding on one side of a convolution changes; the other side is not rounded."""
    (conv,) = quant_layers(layer).values()
    conv.add_module({"input": "output", "output": "input"}[side], Unrounded())
    # without the input's grid there is no limit to what a bias may be
    conv.input_scale = lambda: None  # type: ignore[method-assign]
    calibrate(layer, [lambda: layer(x)])
    set_phase(layer, "frozen")
    rounded = layer(x)
    conv.add_module(side, Unrounded())
    return float((rounded - layer(x)).square().mean().sqrt())


def wrapped(kind: type[FineInput] | type[FineOutput], conv: nn.Conv2d) -> nn.Module:
    fine = kind(conv)
    assert isinstance(fine.conv, nn.Conv2d)
    fine.conv = QConv2d(fine.conv, QuantConfig())
    return fine


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "side", "channels"), [(FineInput, "input", (1, 6)), (FineOutput, "output", (6, 1))])
def test_rounding_costs_a_quarter(
    kind: type[FineInput] | type[FineOutput], side: str, channels: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(*channels, 3, padding=1, bias=bias)
    x = torch.randn(4, channels[0], 20, 20)
    plain = rounding(nn.Sequential(QConv2d(copy.deepcopy(conv), QuantConfig())), side, x)
    fine = rounding(wrapped(kind, conv), side, x)
    assert fine == pytest.approx(plain / COPIES, rel=0.15)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shifts_are_nothing_to_the_float_model(variant: str) -> None:
    model = tiny_model(variant)
    generator = calibrated(model, tiny_recipe(variant))
    fine = [m for m in generator.modules() if isinstance(m, FineInput | FineOutput)]
    assert len(fine) == 3
    assert all(isinstance(m.conv, QuantLayer) for m in fine)
    assert float(generator.unet.init_conv.conv.shifts.abs().min()) > 0
    assert float(generator.velocity_decoder.output.conv.conv.bias.std()) > 0
    latent, x, time = torch.randn(3, 16), torch.randn(3, 1, 16), generator.sampler.times[[0, 2, 4]]
    with phase_set(generator, "float"):
        step, (velocity, _seismic) = generator.unet(x, time), generator.decode_normalised(latent[:, None])
    torch.testing.assert_close(step, model.unet(x, time), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(velocity, model.decode_velocity(latent), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_to_stagger_again_changes_nothing() -> None:
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    before = {n: t.clone() for n, t in generator.state_dict().items()}
    offset_grids(generator)
    for name, value in generator.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("quant", "left"),
    [
        (QuantConfig(ten_bit_io=False), 0),
        (QuantConfig(velocity=False), 2),
        (QuantConfig(diffusion=False), 1),
        (QuantConfig(convert_conv1d=False), 1),
    ],
)
def test_only_layers_with_integer_kernels_get_copies(quant: QuantConfig, left: int) -> None:
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper", quant))
    assert sum(isinstance(m, FineInput | FineOutput) for m in generator.modules()) == left
