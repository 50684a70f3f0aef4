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
    return Slices(reference, [maps], seed=seed, projections=projections).distance(0)


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
) -> Interval:
    """Distance of ``maps`` over distance of ``baseline``, both to ``held_out``, with a paired bootstrap interval.

    Row i of ``maps`` and of ``baseline`` come from the same start noise: both are resampled by the same
    indices, and share the resampled held-out maps. Repeated rows raise both distances and so pull the
    resampled ratios towards 1; only their spread is used, about the ratio of the full sets. The spread is
    one of maps, so few projections and patches of each serve for it.
    """
    if len(maps) != len(baseline):
        raise ValueError(f"paired sets differ in length: {len(maps)} and {len(baseline)}")
    full = Slices(held_out, [maps, baseline], seed=seed, projections=PROJECTIONS)
    value = _ratio(full.distance(0).mean, full.distance(1).mean)
    del full
    slices = Slices(held_out, [maps, baseline], seed=seed, projections=projections, patches=patches)
    rng = np.random.default_rng(seed)
    logs = []
    for _ in range(resamples):
        weights = _counts(rng, len(maps))
        real_weights = _counts(rng, len(held_out))
        ratio = _ratio(slices.distance(0, weights, real_weights).mean, slices.distance(1, weights, real_weights).mean)
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
    """Sorted projections of patches of a reference and of candidate sets, ready for weighted distances.

    Sorting is the expense; a bootstrap resample only reweighs maps, so it needs no new sort.
    """

    def __init__(
        self, reference: Tensor, candidates: Sequence[Tensor], *, seed: int, projections: int,
        patches: int = PATCHES_PER_MAP,
    ) -> None:  # fmt: skip
        for maps in (reference, *candidates):
            if maps.ndim != 4 or maps.shape[1] != 1 or not len(maps):
                raise ValueError(f"needs maps (N, 1, H, W), not {tuple(maps.shape)}")
            if maps.shape[2:] != reference.shape[2:]:
                raise ValueError(f"map sizes differ: {tuple(maps.shape[2:])} and {tuple(reference.shape[2:])}")
        self._count, self._patches = len(reference), patches
        self._levels: list[list[tuple[Tensor, Tensor, int]]] = [[] for _ in candidates]
        pyramids = [laplacian_pyramid(c.float()) for c in candidates]
        for level, real in enumerate(laplacian_pyramid(reference.float())):
            # a new generator for each set: equal sets get equal patches, and the distance of a set to itself is zero
            real_NPD = _patches(real, patches, torch.Generator().manual_seed(seed))
            mean, std = real_NPD.mean(), real_NPD.std().clamp_min(1e-12)
            directions_DR = torch.randn(
                PATCH * PATCH, projections, generator=torch.Generator().manual_seed(seed + 1 + level)
            )
            directions_DR = directions_DR / directions_DR.norm(dim=0)
            real_RX = _project(real_NPD, mean, std, directions_DR)
            for entry, pyramid in zip(self._levels, pyramids, strict=True):
                own_NPD = _patches(pyramid[level], patches, torch.Generator().manual_seed(seed))
                own_RX = _project(own_NPD, mean, std, directions_DR)
                values_RX = torch.cat([own_RX, real_RX], 1)
                order_RX = torch.from_numpy(np.argsort(values_RX.numpy(), axis=1))  # vectorised; torch's is not
                entry.append((values_RX.gather(1, order_RX).diff(dim=1), order_RX[:, :-1], len(own_NPD)))

    def distance(self, candidate: int, weights: Tensor | None = None, real_weights: Tensor | None = None) -> Distance:
        """Distance of one candidate set, its maps and the reference's counted with the weights given (N,), (M,)."""
        levels = []
        for gaps_RX, order_RX, count in self._levels[candidate]:
            map_weights = torch.ones(count) if weights is None else weights
            reference_weights = torch.ones(self._count) if real_weights is None else real_weights
            share = (
                torch.cat([map_weights / map_weights.sum(), -reference_weights / reference_weights.sum()]).float()
                / self._patches
            )
            per_patch = share.repeat_interleave(self._patches)
            area = 0.0
            for gaps_X, order_X in zip(gaps_RX, order_RX, strict=True):  # row by row: no second copy of everything
                area += float(per_patch[order_X].cumsum(0).abs_() @ gaps_X)
            levels.append(area / len(gaps_RX))
        return Distance(float(np.mean(levels)), tuple(levels))


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
