"""How much of a grid of dots stands in maps: transposed convolutions leave one where training lets them.

A grid repeats every 2 or 4 cells, so it is a peak in the spectrum of the maps at just those periods, over
frequencies beside them that any texture of the same size would fill as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST, SIZE = 3, 64
"""Cells that are looked at along each axis: those from 3 to 66, a power of two without the edges."""
FREQUENCIES = (32, 16)
"""Periods of 2 and of 4 cells."""
BESIDE = (2, 3, 4)
"""Distances of the frequencies that a peak is compared with; the nearest ones share the peak of a finite window."""
LEVEL = 1e-3
"""Share of the mean spectrum below which a frequency counts as empty."""


def lattice(maps: Tensor) -> float:
    """Spectrum of the maps' Laplacian at the periods of 2 and 4 cells, over its neighbourhood; the largest of four.

    About 1 without a lattice; real OpenFWI maps have 0.8 to 1.4.

    Args:
        maps: (N, 1, 70, 70), any unit.

    Raises:
        ValueError: not such maps.
    """
    if maps.ndim != 4 or maps.shape[1] != 1 or not len(maps) or min(maps.shape[2:]) < FIRST + SIZE:
        raise ValueError(f"needs maps (N, 1, 70, 70), not {tuple(maps.shape)}")
    inside = slice(FIRST, FIRST + SIZE)
    curvature = _laplacian(maps.double())[:, inside, inside]
    spectrum = torch.fft.fft2(curvature).abs().square().mean(0)
    spectrum = spectrum / spectrum.mean().clamp_min(torch.finfo(spectrum.dtype).tiny)
    return max(_peak(line, k) for line in (spectrum[:, 0], spectrum[0]) for k in FREQUENCIES)


def _laplacian(maps: Tensor) -> Tensor:
    """(N, H, W): five-point, edges replicated."""
    wide = F.pad(maps, (1, 1, 1, 1), mode="replicate")[:, 0]
    middle = wide[:, 1:-1, 1:-1]
    return wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:] - 4 * middle


def _peak(line: Tensor, frequency: int) -> float:
    beside = [frequency + sign * distance for distance in BESIDE for sign in (-1, 1)]
    return float((line[frequency] + LEVEL) / (line[beside].mean() + LEVEL))
