"""Does a shot gather obey the wave equation over its own velocity map?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ubq.acquisition import DEPTH_CELL


def physics_reference(
    velocity: np.ndarray, forward: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What ``physics_errors`` holds gathers against.

    Args:
        velocity: (N, 1, H, W) m/s.
        forward: models maps (B, 1, H, W) -> (B, S, T, R); ``ubq.runtime.wave.WaveEquation``.

    Returns:
        F, what the wave equation gives for the maps, and D, what it gives for constant media with the mean velocity of
        each map's source row: the direct waves. Both (N, S, T, R).
    """
    rows = velocity[..., DEPTH_CELL : DEPTH_CELL + 1, :].mean(-1, keepdims=True)
    return forward(velocity), forward(np.broadcast_to(rows, velocity.shape).copy())


def physics_errors(seismic: np.ndarray, modelled: np.ndarray, direct: np.ndarray) -> NDArray[np.float64]:
    """E of each pair: |s - F| / |F - D| over its whole gather s, physical amplitudes.

    0 obeys the wave equation; 1 knows the direct wave only.

    Args:
        seismic: (N, S, T, R), s.
        modelled: (N, S, T, R), F, of ``physics_reference``.
        direct: (N, S, T, R), D.

    Returns:
        (N,); infinite for a constant map, unless its gather is exact.
    """

    def norms(differences: np.ndarray) -> NDArray[np.float64]:
        return np.linalg.norm(differences.reshape(len(differences), -1).astype(np.float64), axis=1)

    wrong, reflected = norms(seismic - modelled), norms(modelled - direct)
    return np.divide(wrong, reflected, out=np.where(wrong > 0, np.inf, 0.0), where=reflected > 0)
