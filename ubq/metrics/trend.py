"""Is a loss curve going down, up, or neither? The Mann-Kendall trend test (Mann 1945, Kendall 1975)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MOST_POINTS = 64
SIGNIFICANCE = 0.01
FEWEST_POINTS = 6
"""Below six points even a strictly falling series has a two-sided p above 0.01 (2/5! = 0.017)."""


@dataclass(frozen=True)
class Trend:
    """Kendall's tau against time, its two-sided p, and the points tested (block means of a longer series)."""

    tau: float
    p: float
    points: int

    @property
    def direction(self) -> Literal["down", "up", "none"]:
        """Where it goes at p < 0.01."""
        if not self.p < SIGNIFICANCE:  # also for p = nan
            return "none"
        return "down" if self.tau < 0 else "up"


def mann_kendall(series: Sequence[float] | np.ndarray) -> Trend:
    """Two-sided Mann-Kendall test of a series in time order; ties are handled (Kendall's tau-b).

    The test takes its points to be independent, and the losses of neighbouring steps are not, which
    would make any long drift "significant". A series of more than 64 points is therefore cut into 64
    stretches of (nearly) equal length and their means are tested.

    Raises:
        ValueError: a value is not finite.
    """
    from scipy.stats import kendalltau

    values = np.asarray(series, dtype=float).ravel()
    if not np.isfinite(values).all():
        raise ValueError("the series holds values that are not finite")
    if len(values) > MOST_POINTS:
        values = np.array([block.mean() for block in np.array_split(values, MOST_POINTS)])
    if len(values) < 2 or np.ptp(values) == 0:
        return Trend(0.0, 1.0, len(values))
    tau, p = kendalltau(np.arange(len(values)), values)
    return Trend(float(tau), float(p), len(values))
