"""How far one set of velocity maps is from another as a distribution.

Sliced Wasserstein distance on Laplacian-pyramid patches, after Karras et al. 2018 (Progressive Growing
of GANs, section 5), with two departures:

- Both sets are scaled by the mean and standard deviation of the *reference*, level by level. The
  paper scales each set by its own, which would hide a lost contrast.
- The one-dimensional distances are exact for sets of unequal size (area between the two empirical
  distribution functions).

The patches make it see blur, which a sliced distance on whole maps does not. It is not the FID.

Suffixes: N maps, P patches of a map, D elements of a patch, R projections.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVELS = 3
PATCH = 7
PATCHES_PER_MAP = 64
PROJECTIONS = 256
WANTED_HELD_OUT = 250
"""Held-out maps from which on the distance is worth quoting; fewer are used and said so."""


@dataclass(frozen=True)
class Distance:
    """Mean over the pyramid's levels, and each level from fine to coarse, in reference standard deviations."""

    mean: float
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval."""

    value: float
    lower: float
    upper: float


def sliced_wasserstein(maps: Tensor, reference: Tensor, *, seed: int = 0, projections: int = PROJECTIONS) -> Distance:
    """Distance of ``maps`` (N, 1, H, W) to ``reference`` (M, 1, H, W), both in the same unit.

    Zero for equal sets; repeats to the bit for the same seed. It grows as either set shrinks, so
    compare only figures taken with the same counts, and beside ``real_floor``.

    Raises:
        ValueError: a set is empty or not of single-channel maps, or their sizes differ.
    """
    slices = Slices(reference, seed=seed, projections=projections)
    areas = [_area(own_RX, real_RX) for own_RX, real_RX in zip(slices.of(maps), slices.reference, strict=True)]
    return _mean_of(areas)


def real_floor(
    held_out: Tensor, train: Tensor | None = None, *, count: int | None = None, seed: int = 0, repeats: int = 3
) -> Distance:
    """What a perfect generator would score: real maps against the held-out maps, averaged over random draws.

    Args:
        held_out: (M, 1, H, W) the reference of the distance.
        train: (N, 1, H, W) other real maps; without them one half of ``held_out`` is held against the
            other, which is higher because both sets are smaller.
        count: how many real maps play the generated set; the number generated, for equal footing.
        seed: of the draws.
        repeats: draws that are averaged.
    """
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(repeats):
        if train is not None:
            chosen = torch.randperm(len(train), generator=generator)[: count or len(held_out)]
            distances.append(sliced_wasserstein(train[chosen], held_out, seed=seed))
        else:
            order = torch.randperm(len(held_out), generator=generator)
            half = len(held_out) // 2
            distances.append(sliced_wasserstein(held_out[order[:half][:count]], held_out[order[half:]], seed=seed))
    levels = tuple(float(x) for x in np.mean([d.levels for d in distances], axis=0))
    return Distance(float(np.mean(levels)), levels)


def ratio_interval(
    maps: Tensor,
    baseline: Tensor,
    held_out: Tensor,
    *,
    seed: int = 0,
    resamples: int = 200,
    confidence: float = 0.95,
    projections: int = 48,
    patches: int = 16,
    value: float | None = None,
) -> Interval:
    """Distance of ``maps`` over distance of ``baseline``, both to ``held_out``, with a paired bootstrap interval.

    Row i of ``maps`` and of ``baseline`` come from the same start noise: both are resampled by the same
    indices, and share the resampled held-out maps. Repeated rows raise both distances and so pull the
    resampled ratios towards 1; only their spread is used, about the ratio of the full sets. The spread is
    one of maps, so few projections and patches of each serve for it. ``value``: the full sets' ratio,
    where it is known.
    """
    if len(maps) != len(baseline):
        raise ValueError(f"paired sets differ in length: {len(maps)} and {len(baseline)}")
    if value is None:
        value = _ratio(*(sliced_wasserstein(each, held_out, seed=seed).mean for each in (maps, baseline)))
    slices = Slices(held_out, seed=seed, projections=projections, patches=patches)
    own, other = (Resampled(slices, each) for each in (maps, baseline))
    rng = np.random.default_rng(seed)
    logs = []
    for _ in range(resamples):
        weights = _counts(rng, len(maps))
        real_weights = _counts(rng, len(held_out))
        ratio = _ratio(own.distance(weights, real_weights).mean, other.distance(weights, real_weights).mean)
        logs.append(np.log(ratio))
    return _interval(value, np.asarray(logs), confidence)


def bootstrap_ratio(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Ratio of the means of paired positive figures, one pair a sample, with its bootstrap interval."""
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    if top.shape != bottom.shape or top.ndim != 1 or len(top) < 2:
        raise ValueError("needs two equally long series of at least 2 figures")
    rows = np.random.default_rng(seed).integers(0, len(top), (resamples, len(top)))
    logs = np.log(top[rows].mean(1) / bottom[rows].mean(1))
    return _interval(float(top.mean() / bottom.mean()), logs, confidence)


def pairwise_diversity(maps: Tensor) -> float:
    """Mean L2 distance between two different maps of the set (N, 1, H, W), in their unit times sqrt(pixels)."""
    if len(maps) < 2:
        raise ValueError("diversity needs at least 2 maps")
    return float(torch.pdist(maps.flatten(1).double()).mean())


def nearest(maps: Tensor, others: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The nearest of ``others``, given in blocks (M, 1, H, W), to each of ``maps`` (N, 1, H, W).

    Returns:
        Its L2 distance (N,), infinite where there are no others, and its row (N,) among all of them, -1.
    """
    rows = maps.flatten(1).double()
    best = torch.full((len(rows),), float("inf"), dtype=torch.float64)
    which = torch.full((len(rows),), -1, dtype=torch.int64)
    seen = 0
    for block in others:
        # the matrix-product form of cdist cancels badly for near copies, which are what this looks for
        distances = torch.cdist(rows, block.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist")
        closest, row = distances.min(1)
        which = torch.where(closest < best, seen + row, which)
        best = torch.minimum(best, closest)
        seen += len(block)
    return best, which


def laplacian_pyramid(maps: Tensor, levels: int = LEVELS) -> list[Tensor]:
    """Band-pass images (N, 1, H, W), (N, 1, H/2, W/2), ... and the low-pass rest last (Burt and Adelson 1983).

    Adding each level to the enlarged next one gives the maps back.
    """
    bands = []
    current = maps
    for _ in range(levels - 1):
        smaller = _reduce(current)
        bands.append(current - _enlarge(smaller, current.shape))
        current = smaller
    return [*bands, current]


class Slices:
    """Projections of patches of a reference (M, 1, H, W), level by level, and of other maps cut and scaled alike.

    Attributes:
        reference: of each level, (R, M*P), map by map.
    """

    def __init__(
        self, reference: Tensor, *, seed: int, projections: int = PROJECTIONS, patches: int = PATCHES_PER_MAP
    ) -> None:
        self.shape, self.patches, self._seed = _checked(reference).shape, patches, seed
        self.reference: list[Tensor] = []
        self._cuts: list[tuple[Tensor, Tensor, Tensor]] = []
        for level, real in enumerate(laplacian_pyramid(reference.float())):
            real_NPD = self._patches_of(real)
            mean, std = real_NPD.mean(), real_NPD.std().clamp_min(1e-12)
            directions_DR = torch.randn(
                PATCH * PATCH, projections, generator=torch.Generator().manual_seed(seed + 1 + level)
            )
            self._cuts.append((mean, std, directions_DR / directions_DR.norm(dim=0)))
            self.reference.append(_project(real_NPD, *self._cuts[-1]))

    def of(self, maps: Tensor) -> list[Tensor]:
        """Of maps (N, 1, H, W), of each level, (R, N*P)."""
        if _checked(maps).shape[2:] != self.shape[2:]:
            raise ValueError(f"map sizes differ: {tuple(maps.shape[2:])} and {tuple(self.shape[2:])}")
        pyramid = laplacian_pyramid(maps.float())
        return [_project(self._patches_of(band), *cut) for band, cut in zip(pyramid, self._cuts, strict=True)]

    def _patches_of(self, maps: Tensor) -> Tensor:
        # a new generator for each set: equal sets get equal patches, and the distance of a set to itself is zero
        return _patches(maps, self.patches, torch.Generator().manual_seed(self._seed))


class Resampled:
    """Distances of a set of maps to a reference, both with weights: a bootstrap's resamples need one sort in all."""

    def __init__(self, slices: Slices, maps: Tensor) -> None:
        self._patches = slices.patches
        self._levels: list[tuple[Tensor, Tensor]] = []
        for own_RX, real_RX in zip(slices.of(maps), slices.reference, strict=True):
            values_RX = torch.cat([own_RX, real_RX], 1)
            order_RX = torch.from_numpy(np.argsort(values_RX.numpy(), axis=1))  # vectorised; torch's is not
            self._levels.append((values_RX.gather(1, order_RX).diff(dim=1), order_RX[:, :-1]))

    def distance(self, weights: Tensor, real_weights: Tensor) -> Distance:
        """Distance with each map counted as often as the weights (N,) say, the reference's as (M,)."""
        share = torch.cat([weights / weights.sum(), -real_weights / real_weights.sum()]).float() / self._patches
        per_patch = share.repeat_interleave(self._patches)
        levels = []
        for gaps_RX, order_RX in self._levels:
            area = 0.0
            for gaps_X, order_X in zip(gaps_RX, order_RX, strict=True):  # row by row: no second copy of everything
                area += float(per_patch[order_X].cumsum(0).abs_() @ gaps_X)
            levels.append(area / len(gaps_RX))
        return _mean_of(levels)


def _checked(maps: Tensor) -> Tensor:
    if maps.ndim != 4 or maps.shape[1] != 1 or not len(maps):
        raise ValueError(f"needs maps (N, 1, H, W), not {tuple(maps.shape)}")
    return maps


def _mean_of(levels: Sequence[float]) -> Distance:
    return Distance(float(np.mean(levels)), tuple(levels))


def _area(own_RX: Tensor, real_RX: Tensor) -> float:
    """Area between the empirical distribution functions of two rows of values, mean over the rows.

    Of sorted values it is the integral over the quantiles, which steps where either set goes on to its next value.
    """
    own, real = (np.sort(rows.numpy(), axis=1) for rows in (own_RX, real_RX))
    count, real_count = own.shape[1], real.shape[1]
    steps = np.union1d(np.arange(count) * real_count, np.arange(real_count) * count)
    widths = np.diff(steps, append=count * real_count) / (count * real_count)
    own_at, real_at = steps // real_count, steps // count
    return float(np.mean([np.abs(o[own_at] - r[real_at]) @ widths for o, r in zip(own, real, strict=True)]))


def _patches(maps: Tensor, patches: int, generator: torch.Generator) -> Tensor:
    """(N, P, D): patches at random places, drawn anew for each map."""
    windows = maps[:, 0].unfold(1, PATCH, 1).unfold(2, PATCH, 1)  # (N, H', W', 7, 7), a view
    count, height, width = windows.shape[:3]
    rows = torch.randint(height, (count, patches), generator=generator)
    columns = torch.randint(width, (count, patches), generator=generator)
    return windows[torch.arange(count)[:, None], rows, columns].flatten(2)


def _project(patches_NPD: Tensor, mean: Tensor, std: Tensor, directions_DR: Tensor) -> Tensor:
    """(R, N*P) projections of the scaled patches, map by map."""
    return (((patches_NPD - mean) / std).flatten(0, 1) @ directions_DR).T.contiguous()


@functools.cache
def _smoothing(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size) binomial smoothing of a column, reflected at its ends.

    A product with it is several times faster than a convolution of one channel, which counts in training.
    """
    rows = torch.arange(size)
    columns = torch.arange(-2, size + 2).abs()
    columns = torch.where(columns < size, columns, 2 * (size - 1) - columns)
    matrix = torch.zeros(size, size)
    for offset, tap in enumerate((1.0, 4.0, 6.0, 4.0, 1.0)):
        matrix.index_put_((rows, columns[offset : offset + size]), torch.tensor(tap / 16), accumulate=True)
    return matrix.to(device, dtype)


def _reduce(maps: Tensor) -> Tensor:
    """Smoothed maps, every second row and column of them."""
    down, across = _both_smoothings(maps.shape, maps)
    return down[::2] @ maps @ across[::2].T


def _enlarge(maps: Tensor, shape: torch.Size) -> Tensor:
    """Maps with zeros put between rows and columns, smoothed; as bright as before."""
    down, across = _both_smoothings(shape, maps)
    return 4 * (down[:, ::2] @ maps @ across[:, ::2].T)


def _both_smoothings(shape: torch.Size, like: Tensor) -> tuple[Tensor, Tensor]:
    return _smoothing(shape[2], like.dtype, like.device), _smoothing(shape[3], like.dtype, like.device)


def _counts(rng: np.random.Generator, count: int) -> Tensor:
    """How often each of ``count`` rows appears in one bootstrap resample."""
    return torch.from_numpy(np.bincount(rng.integers(0, count, count), minlength=count)).float()


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else (1.0 if top == 0 else float("inf"))


def _interval(value: float, logs: np.ndarray, confidence: float) -> Interval:
    """Spread of the resampled log ratios about the estimate."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(logs - logs.mean(), [tail, 1 - tail])
    return Interval(value, value * float(np.exp(low)), value * float(np.exp(high)))
