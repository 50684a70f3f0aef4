"""What geostatistics compares two sets of maps by: how much cells differ over a distance, and how often sharply."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

LAGS = 30
"""Distances from 1 to this many cells."""
EMPTY = 1e-3
"""Share of a variogram's largest value below which a value counts as none: flat layers do not change along x."""
CUT = 200.0
"""Difference of neighbouring cells that makes a cut, m/s."""


@dataclass(frozen=True)
class Variogram:
    """Half the mean squared difference of cells 1, 2, ... apart, in the square of the maps' unit."""

    x: tuple[float, ...]
    depth: tuple[float, ...]

    def ratios(self, reference: Variogram) -> Variogram:
        """These values over the reference's, lag by lag; of a reference that is ``EMPTY`` there, as if it were not."""
        least = EMPTY * max(*reference.x, *reference.depth)

        def over(values: tuple[float, ...], real: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(1 + (a - b) / max(b, least) for a, b in zip(values, real, strict=True))

        return Variogram(over(self.x, reference.x), over(self.depth, reference.depth))

    def difference(self, reference: Variogram) -> float:
        """Mean relative difference to the reference's, over all lags and both directions."""
        ratios = self.ratios(reference)
        return fmean(abs(ratio - 1) for ratio in (*ratios.x, *ratios.depth))


def variogram(maps: Tensor, lags: int = LAGS) -> Variogram:
    """Variogram of maps (N, 1, H, W) along x and along depth, what they have in common on the mean taken off first.

    A blur lowers its short lags, too little variety all of them.

    Raises:
        ValueError: fewer than two maps, or maps no wider than the largest lag.
    """
    if maps.ndim != 4 or maps.shape[1] != 1 or len(maps) < 2 or min(maps.shape[2:]) <= lags:
        raise ValueError(f"needs at least 2 maps (N, 1, H, W) larger than {lags} cells, not {tuple(maps.shape)}")
    centred = maps.double() - maps.double().mean(0)

    def along(axis: int) -> tuple[float, ...]:
        cells = centred.shape[axis]
        gaps = (
            centred.narrow(axis, lag, cells - lag) - centred.narrow(axis, 0, cells - lag) for lag in range(1, lags + 1)
        )
        return tuple(0.5 * float(gap.square().mean()) for gap in gaps)

    return Variogram(x=along(3), depth=along(2))


def cuts(maps: Tensor) -> float:
    """Share of the neighbouring cells of maps (N, 1, H, W), m/s, that differ by more than ``CUT``."""
    gaps = torch.cat([maps.diff(dim=axis).flatten() for axis in (2, 3)])
    return float((gaps.abs() > CUT).double().mean())
