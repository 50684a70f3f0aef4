"""Distribution distances on sets whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ubq.metrics import (
    bootstrap_ratio,
    nearest,
    pairwise_diversity,
    ratio_interval,
    real_floor,
    sliced_wasserstein,
)
from ubq.metrics.distribution import laplacian_pyramid


def layered(count: int, seed: int) -> torch.Tensor:
    """Flat layers of random depth and speed, (count, 1, 70, 70) m/s."""
    rng = np.random.default_rng(seed)
    maps = np.empty((count, 1, 70, 70), np.float32)
    for one in maps:
        tops = np.sort(rng.integers(5, 65, 3))
        one[0] = np.sort(rng.uniform(1500, 4500, 4))[np.searchsorted(tops, np.arange(70), side="right")][:, None]
    return torch.from_numpy(maps)


def blurred(maps: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.pad(maps, (3, 3, 3, 3), mode="replicate"), 7, 1)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return sliced_wasserstein(a, b, projections=48).mean


def test_a_set_is_at_distance_zero_from_itself_and_repeats_to_the_bit() -> None:
    a, b = layered(40, 0), layered(40, 1)
    assert sliced_wasserstein(a, a) == sliced_wasserstein(a, a.clone())
    assert distance(a, a) == 0.0
    assert distance(a, b) == distance(a, b) > 0.0


def test_real_maps_are_near_and_blur_lost_contrast_and_noise_are_far() -> None:
    held_out, others = layered(120, 0), layered(60, 1)
    near = distance(others, held_out)
    assert distance(blurred(others), held_out) > 3 * near
    assert distance(others.mean() + 0.5 * (others - others.mean()), held_out) > 3 * near
    assert distance(1500 + 3000 * torch.rand(60, 1, 70, 70), held_out) > 20 * near
    assert distance(held_out[:1].expand(60, -1, -1, -1), held_out) > 3 * near


def test_blur_shows_in_the_fine_levels() -> None:
    held_out, others = layered(120, 0), layered(60, 1)
    blur, plain = sliced_wasserstein(blurred(others), held_out), sliced_wasserstein(others, held_out)
    assert blur.levels[0] > 3 * plain.levels[0]
    assert blur.levels[2] < 3 * plain.levels[2]


def test_blur_shows_on_real_maps(shared: Path) -> None:
    real = torch.from_numpy(np.load(shared / "openfwi/flatfault-a/velocity_map/vel2_1_0.npy"))
    floor = real_floor(real[:250], real[250:], count=64, repeats=2)
    assert distance(blurred(real[250:314]), real[:250]) > 3 * floor.mean


def test_the_floor_is_what_fresh_real_maps_score() -> None:
    held_out, train, fresh = layered(100, 0), layered(200, 1), layered(50, 2)
    floor = real_floor(held_out, train, count=50, repeats=3)
    assert sliced_wasserstein(fresh, held_out).mean == pytest.approx(floor.mean, rel=0.5)
    assert real_floor(held_out, repeats=2).mean > 0


def test_the_pyramid_gives_the_maps_back() -> None:
    maps = torch.randn(3, 1, 70, 70)
    fine, middle, coarse = laplacian_pyramid(maps)
    assert [tuple(x.shape[2:]) for x in (fine, middle, coarse)] == [(70, 70), (35, 35), (18, 18)]
    from ubq.metrics.distribution import _enlarge

    up = middle + _enlarge(coarse, middle.shape)
    torch.testing.assert_close(fine + _enlarge(up, fine.shape), maps, atol=1e-5, rtol=1e-5)


def test_one_dimensional_distance_is_scipys_for_sets_of_unequal_size() -> None:
    """Maps of one value each: every patch is that value at the coarsest level and zero at the others."""
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 7), rng.normal(1, 2, 12)
    maps = [torch.tensor(x, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 70, 70) for x in (a, b)]
    found = sliced_wasserstein(maps[0], maps[1], projections=2000).levels[2]
    # a constant patch c projects to c * sum(direction); E|sum of a unit vector's elements| in 49 dimensions
    directions = torch.randn(200_000, 49)
    factor = float((directions.sum(1) / directions.norm(dim=1)).abs().mean())
    reference = torch.tensor(b, dtype=torch.float32).repeat_interleave(64 * 49)
    assert found == pytest.approx(factor * wasserstein_distance(a, b) / float(reference.std()), rel=0.05)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes differ"):
        sliced_wasserstein(torch.zeros(2, 1, 70, 70), torch.zeros(2, 1, 64, 64))
    with pytest.raises(ValueError, match="needs maps"):
        sliced_wasserstein(torch.zeros(0, 1, 70, 70), torch.zeros(2, 1, 70, 70))
    with pytest.raises(ValueError, match="differ in length"):
        ratio_interval(layered(3, 0), layered(4, 0), layered(5, 1))


def test_the_ratio_interval_tells_equal_from_worse() -> None:
    held_out, base = layered(100, 0), layered(40, 1)
    same = ratio_interval(base + 0.5 * torch.randn_like(base), base, held_out, resamples=60, projections=16)
    worse = ratio_interval(base + 60 * torch.randn_like(base), base, held_out, resamples=60, projections=16)
    assert same.lower <= same.value <= same.upper
    assert same.upper < 1.05  # paired: half a metre a second of noise cannot be told from none
    assert worse.lower > 1.05


def test_the_bootstrap_interval_covers_the_true_ratio() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        base = rng.gamma(9.0, 1.0, 60)
        found = bootstrap_ratio(1.1 * base * rng.gamma(50.0, 1 / 50.0, 60), base, seed=trial, resamples=400)
        hits += found.lower <= 1.1 <= found.upper
    assert 0.9 <= hits / 200 <= 0.985


@settings(max_examples=30)
@given(arrays(np.float64, st.integers(2, 30), elements=st.floats(0.1, 100)))
def test_a_ratio_of_a_series_to_itself_is_one_without_doubt(series: np.ndarray) -> None:
    found = bootstrap_ratio(series, series, resamples=50)
    assert (found.value, found.lower, found.upper) == pytest.approx((1, 1, 1))


def test_diversity_of_known_sets() -> None:
    assert pairwise_diversity(torch.zeros(5, 1, 70, 70)) == 0
    two = torch.stack([torch.zeros(1, 70, 70), torch.full((1, 70, 70), 3.0)])
    assert pairwise_diversity(two) == pytest.approx(3 * 70)
    noise = torch.randn(64, 1, 70, 70)
    assert pairwise_diversity(noise) == pytest.approx((2 * 4900) ** 0.5, rel=0.02)


def test_the_nearest_map_is_a_copy_across_chunks() -> None:
    train = layered(50, 0)
    probe = torch.cat([train[[37]], layered(1, 9)])
    found, which = nearest(probe, train.split(16))
    assert found[0] == 0.0
    assert which[0] == 37
    each = (train - probe[1]).double().flatten(1).norm(dim=1)
    assert float(found[1]) == pytest.approx(float(each.min()))
    assert which[1] == each.argmin()
    assert nearest(probe, [])[1].tolist() == [-1, -1]
