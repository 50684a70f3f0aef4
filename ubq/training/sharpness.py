"""A loss that keeps a decoder from blurring: of a Laplacian pyramid's patches, how they are distributed and where.

Mean errors are least for a blurred interface wherever its place is not sure to the cell. This term
does not compare cell by cell. Half of it is the distance between the distributions of small patches of
a batch and of its target (sliced Wasserstein loss: Bonneel et al. 2015; on pyramid patches: Karras et
al. 2018, where it is a metric), so that interfaces come out as sharp as real ones. Alone it would be
met by speckles anywhere, so the other half compares how strong each band is around every place.

The patches of a step all lie alike on the grid of the decoder's last two upsamplings. Patches from everywhere would be
met by a lattice on that grid, which is fine energy too; those from one place of it are then as unlike the target's as
a lattice is.

Suffixes: B maps, P patches of a map, D elements of a patch, R projections.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ubq.metrics.distribution import PATCH, laplacian_pyramid
from ubq.training.randomness import SampleDraws

LEVELS = 2
"""The fine band-pass levels; the coarse rest is what mean errors are good at."""
GRID = 4
"""Cells after which a decoder's last two upsamplings repeat; half as many on the next level."""
PATCHES_PER_MAP = 32
PROJECTIONS = 16


def patch_loss(result: Tensor, target: Tensor, draws: SampleDraws) -> Tensor:
    """Mean of both halves over the levels, each relative to the target; a scalar with a graph.

    Args:
        result: maps (B, 1, H, W) with a graph.
        target: maps of the same shape; patches are taken at the same places.
        draws: of the samples in the batch.
    """
    with torch.autocast(result.device.type, enabled=False):  # differences of neighbours need float32
        pyramids = [laplacian_pyramid(maps.float())[:LEVELS] for maps in (result, target)]
        bands = list(zip(*pyramids, strict=True))
        phase = draws.shared_integers(GRID, 2).tolist()
        halves = [
            _distance(band, target_band, GRID >> level, phase, draws) for level, (band, target_band) in enumerate(bands)
        ]
        halves += [_misplaced(band, target_band) for band, target_band in bands]
    return torch.stack(halves).mean()


def _distance(band: Tensor, target: Tensor, grid: int, phase: list[int], draws: SampleDraws) -> Tensor:
    """Sliced Wasserstein distance of the patches of one level whose corners have one phase on a grid."""
    places = (band.shape[-1] - PATCH + 1) // grid
    rows_BP, columns_BP = (
        (draws.integers(places, PATCHES_PER_MAP) * grid + of_axis % grid).to(band.device, non_blocking=True)
        for of_axis in phase
    )
    directions_DR = draws.shared_normal(PATCH * PATCH, PROJECTIONS).to(band.device, non_blocking=True)
    directions_DR = directions_DR / directions_DR.norm(dim=0)
    band_XR, target_XR = (_patches(maps, rows_BP, columns_BP) @ directions_DR for maps in (band, target))
    gap = (band_XR.sort(dim=0).values - target_XR.sort(dim=0).values).abs().mean()
    return gap / target_XR.std().clamp(min=1e-6)


def _misplaced(band: Tensor, target: Tensor) -> Tensor:
    """Difference of the mean amplitude around each place, in the target's mean amplitude."""
    around_band, around_target = (F.avg_pool2d(level.abs(), PATCH, PATCH // 2) for level in (band, target))
    return (around_band - around_target).abs().mean() / around_target.mean().clamp(min=1e-6)


def _patches(maps: Tensor, rows_BP: Tensor, columns_BP: Tensor) -> Tensor:
    """(B*P, D) patches of maps (B, 1, H, W) at the given upper left cells."""
    width = maps.shape[-1]
    corners_BP = rows_BP * width + columns_BP
    inside = torch.arange(PATCH, device=maps.device)
    cells_D = (inside[:, None] * width + inside).flatten()
    cells_BX = (corners_BP[:, :, None] + cells_D).flatten(1)
    return maps.flatten(1).gather(1, cells_BX).reshape(-1, len(cells_D))
