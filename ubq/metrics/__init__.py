"""Figures of merit: SSIM, relative errors, distribution distance, loss trend, physics error, lattice and variograms."""

from ubq.metrics.distribution import (
    Distance,
    Interval,
    bootstrap_ratio,
    nearest,
    pairwise_diversity,
    ratio_interval,
    real_floor,
    sliced_wasserstein,
)
from ubq.metrics.errors import SeismicError, relative_l2, seismic_error
from ubq.metrics.lattice import lattice
from ubq.metrics.physics import physics_errors, physics_reference
from ubq.metrics.ssim import ssim
from ubq.metrics.trend import Trend, mann_kendall
from ubq.metrics.variogram import Variogram, cuts, variogram

__all__ = [
    "Distance",
    "Interval",
    "SeismicError",
    "Trend",
    "Variogram",
    "bootstrap_ratio",
    "cuts",
    "lattice",
    "mann_kendall",
    "nearest",
    "pairwise_diversity",
    "physics_errors",
    "physics_reference",
    "ratio_interval",
    "real_floor",
    "relative_l2",
    "seismic_error",
    "sliced_wasserstein",
    "ssim",
    "variogram",
]
