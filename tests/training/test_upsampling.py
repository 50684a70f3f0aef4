"""Kernels that upsample and draw no grid: what they are, and that training keeps to them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.test_autoencoder_task import SIZES, Layers, task, trained
from ubq.config.schema import QatTraining, QuantConfig
from ubq.data.normalization import Normalization
from ubq.metrics import lattice
from ubq.model import build_part
from ubq.model.velocity import VelocityDecoder
from ubq.quant.prepare import prepare_qat
from ubq.quant.rewrites import convert_transposed, fold_batchnorms
from ubq.training.latents import Latents
from ubq.training.qat import QatDecodersTask
from ubq.training.upsampling import SmoothUpsampling, blind, interpolating

RANGES = Normalization(-26.48, 52.32, 1500, 4500)


def kernels(model: nn.Module) -> list[Tensor]:
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.ConvTranspose2d) and m.stride == (2, 2)][1:]


def interpolates(kernel: Tensor) -> bool:
    return torch.allclose(kernel, interpolating(kernel), atol=1e-6)


def test_the_nearest_interpolating_kernel_is_a_projection_and_bilinear_interpolation_lies_in_it() -> None:
    kernel = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    nearest = interpolating(kernel)
    assert not interpolates(kernel)
    assert interpolates(nearest)
    assert float(((kernel - nearest) * nearest).sum()) == pytest.approx(0.0, abs=1e-3)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    assert interpolates(torch.outer(line, line).expand(1, 1, 4, 4))


def test_a_slope_is_upsampled_to_a_slope() -> None:
    """Even and odd cells of what is locally linear do not differ, whatever the taps."""
    kernel = interpolating(torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    slope = torch.arange(8.0)[:, None] + 2 * torch.arange(8.0)
    bends = F.conv_transpose2d(slope[None, None], kernel, stride=2, padding=1)[0, 0, 3:-3, 3:-3].diff(n=2, dim=0)
    assert float(bends.abs().max()) < 1e-5


def test_a_blind_kernel_passes_nothing_of_two_cells_on() -> None:
    kernel = blind(torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(kernel, blind(kernel), atol=1e-6)
    columns = (-1.0) ** torch.arange(8.0).expand(8, 8)
    for detail in (columns, columns.T, columns * columns.T):
        assert float(F.conv2d(detail[None, None], kernel).abs().max()) < 1e-6
    assert float(F.conv2d(torch.ones(1, 1, 8, 8), kernel).abs().max()) > 0.1


def test_random_decoders_draw_a_lattice_unless_their_kernels_interpolate() -> None:
    torch.manual_seed(0)
    decoder = VelocityDecoder(8, (8, 8, 16, 16, 32)).eval()
    latents = torch.randn(32, 8, 1, 1)
    with torch.no_grad():
        free = lattice(decoder(latents))
        SmoothUpsampling(decoder).hold()
        held = lattice(decoder(latents))
    assert free > 20
    assert held < 3


def test_training_keeps_to_them_and_upstream_s_way_does_not() -> None:
    held, free = (trained(smooth_upsampling=smooth) for smooth in (True, False))
    assert all(map(interpolates, kernels(held.model)))
    assert kept(held.model) == (4, 3)
    assert not any(map(interpolates, kernels(free.model)))


def kept(model: nn.Module) -> tuple[int, int]:
    """How many layers of a model upsample by interpolating, and how many are blind."""
    upsampling = SmoothUpsampling(model)
    upsampling.let_go()
    return len(upsampling.layers), len(upsampling.blind)


def test_what_was_trained_before_kernels_were_blind_goes_on_interpolating() -> None:
    decoder = VelocityDecoder(8, (8, 8, 16, 16, 32))
    SmoothUpsampling(decoder).hold()
    with torch.no_grad():
        for layer in SmoothUpsampling(decoder).blind:
            layer.weight.normal_()
    assert kept(decoder) == (4, 0)


def decoders(smooth: bool) -> nn.ModuleDict:
    made = task(smooth_upsampling=smooth)
    decoder: VelocityDecoder = made.model.velocity_decoder  # type: ignore[assignment]
    projector = made.model.velocity_projector
    fold_batchnorms(projector)
    fold_batchnorms(decoder)
    convert_transposed(decoder)
    seismic = nn.Sequential(build_part(SIZES, "seismic_projector"), nn.Flatten(), nn.Linear(640, 1))
    model = nn.ModuleDict({"velocity": nn.Sequential(projector, decoder), "seismic": seismic})
    prepare_qat(model, QuantConfig())
    return model


class Pairs(Layers):
    def seismic(self, samples: Tensor) -> Tensor:
        return torch.zeros(len(samples), 1)


@pytest.mark.parametrize("smooth", [True, False])
def test_quantisation_aware_training_keeps_to_what_it_was_given(smooth: bool) -> None:
    model = decoders(smooth)
    latents = Latents(torch.randn(12, 8), torch.randn(12, 8))
    made = QatDecodersTask(model, latents, Pairs(), Pairs(), QatTraining(), RANGES)
    upsampling = SmoothUpsampling(model)
    assert len(upsampling.layers) == 4
    assert len(upsampling.blind) == 3
    with torch.no_grad():
        for parameter in model["velocity"].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # a step of an optimiser
    made.hold()
    assert kept(model) == ((4, 3) if smooth else (0, 0))
    biases = [layer.conv.bias.reshape(-1, 4) for layer in upsampling.layers]
    assert all(torch.allclose(b, b[:, :1].expand(-1, 4)) for b in biases) == smooth
