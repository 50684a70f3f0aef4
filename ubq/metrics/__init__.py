"""Figures of merit: SSIM, relative errors, distribution distance, loss trend, physics residual,
lattice and variograms of maps."""

from ubq.metrics.distribution import (
    Distance,
    Interval,
    bootstrap_ratio,
    nearest_distances,
    pairwise_diversity,
    ratio_interval,
    real_floor,
    sliced_wasserstein,
)
from ubq.metrics.errors import SeismicError, relative_l2, seismic_error
from ubq.metrics.lattice import lattice
from ubq.metrics.physics import PhysicsResidual, physics_residual
from ubq.metrics.ssim import ssim
from ubq.metrics.trend import Trend, mann_kendall
from ubq.metrics.variogram import Variogram, cuts, variogram

__all__ = [
    "Distance",
    "Interval",
    "PhysicsResidual",
    "SeismicError",
    "Trend",
    "Variogram",
    "bootstrap_ratio",
    "cuts",
    "lattice",
    "mann_kendall",
    "nearest_distances",
    "pairwise_diversity",
    "physics_residual",
    "ratio_interval",
    "real_floor",
    "relative_l2",
    "seismic_error",
    "sliced_wasserstein",
    "ssim",
    "variogram",
]
