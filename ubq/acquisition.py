"""Where the shots of a pair are fired and recorded: OpenFWI's acquisition (Deng et al. 2022, appendix on forward
modelling), and its like for models of other shapes. Standard library alone: light code and exported files' facts hold
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CELL = 10.0
"""Grid spacing, m."""
TIME_STEP = 1e-3
"""Sampling interval of the gathers, s."""
PEAK_FREQUENCY = 15.0
"""Of the Ricker wavelet, Hz."""
WAVELET_PEAK = math.floor(1.1 / (PEAK_FREQUENCY * TIME_STEP)) * TIME_STEP
"""When the wavelet peaks, s: its half width of 1.1 periods, in whole steps, so that it starts at zero."""
SOURCES = (0, 17, 34, 52, 69)
"""Cells across of the five sources; receivers are at every cell."""
DEPTH_CELL = 1
"""Depth of sources and receivers, cells."""
ABSORBING_CELLS = 20
"""Width of the layers that absorb what leaves the map."""


@dataclass(frozen=True)
class Acquisition:
    """The arguments of ``ubq.model.wave.WaveEquation`` and ``ubq.runtime.wave.WaveEquation``, described there."""

    sources: tuple[int, ...]
    samples: int
    depth: int = DEPTH_CELL
    cell: float = CELL
    time_step: float = TIME_STEP
    peak_frequency: float = PEAK_FREQUENCY
    wavelet_peak: float = WAVELET_PEAK
    absorbing_cells: int = ABSORBING_CELLS


def acquisition_for(velocity_shape: Sequence[int], seismic_shape: Sequence[int]) -> Acquisition | None:
    """What gives maps of (1, H, W) gathers of (S, T, R): sources spread evenly, a receiver at each cell.

    None where there is none: another number of receivers than cells across, or more sources.
    """
    width, (sources, samples, receivers) = velocity_shape[-1], seismic_shape
    if receivers != width or not 1 <= sources <= width:
        return None
    last = width - 1
    cells = [last // 2] if sources == 1 else [round(i * last / (sources - 1)) for i in range(sources)]
    return Acquisition(tuple(cells), samples)
