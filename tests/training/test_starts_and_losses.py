"""The least-squares start of the seismic head, and the loss that keeps interfaces sharp."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ubq.model import ModelSizes, build_part
from ubq.training.head import fit_head
from ubq.training.modules import SeismicBranch
from ubq.training.randomness import SampleDraws
from ubq.training.sharpness import patch_loss

LATENTS = torch.rand(60, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Gathers:
    """Gathers that depend on the latents, as the decoder has to learn."""

    mixing = torch.randn(16, 5 * 30 * 7, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(LATENTS)

    def velocity(self, samples: Tensor) -> Tensor:
        raise AssertionError("the head's fit reads no map")

    def seismic(self, samples: Tensor) -> Tensor:
        return (LATENTS[samples] @ self.mixing).reshape(-1, 5, 30, 7)


def test_the_fitted_head_explains_more_than_the_mean_gather() -> None:
    torch.manual_seed(0)
    sizes = ModelSizes(encoder_dim=16, seismic_latent=32, seismic_samples=30, receivers=7)
    branch = SeismicBranch(build_part(sizes, "seismic_projector"), build_part(sizes, "seismic_decoder"))
    gathers = Gathers().seismic(torch.arange(len(LATENTS)))
    fit_head(branch, LATENTS, Gathers(), batch_size=16)
    with torch.no_grad():
        error = (branch(LATENTS) - gathers).norm()
    assert error < 0.7 * (gathers - gathers.mean(0)).norm()


def test_patch_loss_is_zero_for_equal_maps_and_grows_with_blur() -> None:
    maps = (torch.rand(8, 1, 7, 7, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    maps = F.interpolate(maps, scale_factor=10.0)
    soft, softer = (F.avg_pool2d(maps, k, stride=1, padding=k // 2) for k in (3, 7))

    def loss(result: Tensor) -> float:
        return float(patch_loss(result, maps, SampleDraws(0, "test", range(8))))

    assert loss(maps) == 0.0
    assert 0.0 < loss(soft) < loss(softer)


def test_patch_loss_counts_fine_energy_on_a_grid_twice_as_much_as_where_it_belongs() -> None:
    """Speckles of a target that are moved onto a grid of dots are as strong as before, and not the same."""
    draws = [SampleDraws(0, "test", range(8 * i, 8 * i + 8)) for i in range(8)]
    rng = torch.Generator().manual_seed(4)

    def speckles(grid: bool) -> Tensor:
        dots = torch.rand(8, 1, 70, 70, generator=rng) < 1 / 16
        if grid:
            dots = torch.zeros(8, 1, 70, 70)
            dots[..., ::4, ::4] = 1
        return dots.float()

    def loss(result: Tensor, target: Tensor) -> float:
        return sum(float(patch_loss(result, target, d)) for d in draws)

    target = speckles(grid=False)
    assert loss(speckles(grid=True), target) > 2 * loss(speckles(grid=False), target)


def test_patch_loss_can_be_followed_downhill() -> None:
    maps = torch.rand(4, 1, 70, 70, generator=torch.Generator().manual_seed(3))
    result = torch.zeros_like(maps).requires_grad_()
    patch_loss(result, maps, SampleDraws(0, "test", range(4))).backward()
    assert result.grad is not None
    assert result.grad.abs().sum() > 0


def test_patch_loss_sees_speckles_that_stand_elsewhere() -> None:
    """Two sets of as many specks have patches of one distribution; where they are makes the difference."""
    draw = torch.Generator().manual_seed(4)
    first, second = ((torch.rand(8, 1, 70, 70, generator=draw) > 0.995).float() for _ in range(2))

    def loss(result: Tensor) -> float:
        return float(patch_loss(result, first, SampleDraws(0, "test", range(8))))

    assert loss(second) > 0.3 * loss(torch.zeros_like(first))
    assert loss(first.roll(1, dims=3)) < 0.7 * loss(second)
