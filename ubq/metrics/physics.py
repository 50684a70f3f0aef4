"""Does a shot gather obey the wave equation over its own velocity map?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ubq.acquisition import DEPTH_CELL


def physics_errors(
    velocity: np.ndarray, seismic: np.ndarray, forward: Callable[[np.ndarray], np.ndarray]
) -> NDArray[np.float64]:
    """E of each pair: |s - F(v)| / |F(v) - D(v)|, over the whole gather s in physical amplitude.

    F(v) is what the wave equation gives for the map; D(v) what it gives for a constant medium with the mean velocity
    of the source row: the direct wave. 0 obeys the wave equation, 1 knows the direct wave only; random reflections
    of the right strength have about 1.4.

    Args:
        velocity: (N, 1, H, W) m/s.
        seismic: (N, S, T, R) amplitude.
        forward: models maps (B, 1, H, W) -> (B, S, T, R); ``ubq.runtime.wave.WaveEquation``.

    Returns:
        (N,); infinite for a map that is itself constant, unless its gather is exact.

    Raises:
        ValueError: counts that differ, or none.
    """
    if len(velocity) != len(seismic) or not len(velocity):
        raise ValueError(f"needs pairs: {len(velocity)} maps, {len(seismic)} gathers")
    errors = np.empty(len(velocity))
    for i, (v, s) in enumerate(zip(velocity, seismic, strict=True)):
        own, direct = forward(np.stack([v, np.full_like(v, v[..., DEPTH_CELL, :].mean())]))
        wrong, reflected = (np.linalg.norm(np.ravel(d).astype(np.float64)) for d in (s - own, own - direct))
        errors[i] = wrong / reflected if reflected else np.inf if wrong else 0.0
    return errors
