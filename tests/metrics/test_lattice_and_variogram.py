"""Lattice, variograms and cuts: on real maps, and on faults that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ubq.data.synthetic import synthesise_velocity
from ubq.metrics import cuts, lattice, variogram

MAPS = torch.from_numpy(synthesise_velocity("curvefault-a", 160, 5))
HELD_OUT = torch.from_numpy(synthesise_velocity("curvefault-a", 160, 6))


def dots(period: int, along_x: bool, height: float = 8.0) -> Tensor:
    """A grid of dots as a decoder leaves one, m/s: of one period along one axis."""
    stripes = height * (torch.arange(70) % period == 0)
    return (stripes if along_x else stripes[:, None]).expand(70, 70)


def blurred(maps: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(maps, (3, 3, 3, 3), mode="replicate"), 7, 1)


@pytest.mark.parametrize("name", ["flatfault-a/velocity_map/vel2_1_0", "curvevel-a/model/model1"])
def test_real_maps_hold_no_lattice(shared: Path, name: str) -> None:
    assert 0.8 < lattice(torch.from_numpy(np.load(shared / f"openfwi/{name}.npy"))) < 1.4


@pytest.mark.parametrize("family", ["flatvel-a", "curvevel-a", "flatfault-a", "curvefault-a"])
def test_synthetic_maps_hold_no_lattice(family: str) -> None:
    assert 0.8 < lattice(torch.from_numpy(synthesise_velocity(family, 500, 0))) < 1.6  # type: ignore[arg-type]


@pytest.mark.parametrize("period", [2, 4])
@pytest.mark.parametrize("along_x", [True, False])
def test_faint_dots_of_either_period_and_axis_show(period: int, along_x: bool) -> None:
    assert lattice(MAPS + dots(period, along_x)) > 5
    sign = torch.randn(len(MAPS), 1, 1, 1, generator=torch.Generator().manual_seed(0)).sign()
    assert lattice(MAPS + sign * dots(period, along_x)) > 5  # also where every map has them the other way round


def test_lattice_does_not_depend_on_the_unit_and_stands_constant_maps() -> None:
    assert lattice(MAPS / 1500 - 2) == pytest.approx(lattice(MAPS), rel=1e-6)
    assert lattice(torch.full((2, 1, 70, 70), 2000.0)) == pytest.approx(1.0)


def test_variogram_of_a_slope_and_of_a_shared_map() -> None:
    slopes = torch.tensor([-1.0, 1.0])[:, None, None, None] * torch.arange(70.0).expand(2, 1, 70, 70)
    found = variogram(slopes + 1000 * torch.rand(1, 1, 70, 70))  # what all maps share does not count
    assert found.x == pytest.approx([lag**2 / 2 for lag in range(1, 31)], rel=1e-5)
    assert max(found.depth) < 1e-6


def test_variogram_sees_a_blur_at_short_lags_and_lost_variety_at_all() -> None:
    real = variogram(HELD_OUT)
    assert variogram(MAPS).difference(real) < 0.1
    blur = variogram(blurred(MAPS)).ratios(real)
    assert blur.x[0] < 0.4
    assert blur.x[29] > 0.8
    shrunk = variogram(MAPS.mean(0) + 0.8 * (MAPS - MAPS.mean(0)))
    assert shrunk.ratios(variogram(MAPS)).depth == pytest.approx([0.64] * 30)
    assert shrunk.difference(variogram(MAPS)) == pytest.approx(0.36)


def test_flat_layers_give_finite_ratios() -> None:
    flat, other = (torch.from_numpy(synthesise_velocity("flatvel-a", 60, seed)) for seed in (0, 1))
    assert variogram(flat).ratios(variogram(other)).x == (1.0,) * 30
    wavy = flat + 60 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    assert variogram(wavy).difference(variogram(other)) > 1


def test_cuts_count_steps_of_more_than_200_metres_a_second() -> None:
    one = torch.zeros(1, 1, 70, 70)
    one[..., 35:, :] = 250.0
    assert cuts(one) == pytest.approx(70 / (2 * 69 * 70))
    assert cuts(0.5 * one) == 0.0
    assert cuts(blurred(MAPS)) < 0.5 * cuts(MAPS)


@pytest.mark.parametrize("measure", [lattice, variogram])
def test_what_are_no_maps_is_refused(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="maps"):
        measure(torch.zeros(3, 70, 70))
