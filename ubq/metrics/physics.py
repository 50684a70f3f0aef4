"""Does a generated shot gather belong to its generated velocity map?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ubq.metrics.errors import relative_l2


@dataclass(frozen=True)
class PhysicsResidual:
    """Mean relative L2 of gathers to what the wave equation gives for a map.

    ``matched`` for a pair's own map, ``shuffled`` for the map of the next pair: a model whose pairs
    belong together has ``matched`` well below ``shuffled``. Neither figure says much alone. ``each`` is
    ``matched`` pair by pair.
    """

    matched: float
    shuffled: float
    pairs: int
    each: tuple[float, ...]


def physics_residual(
    velocity: np.ndarray,
    seismic: np.ndarray,
    forward: Callable[[np.ndarray], np.ndarray],
) -> PhysicsResidual:
    """Residual of generated pairs.

    Args:
        velocity: (N, 1, 70, 70) m/s, N >= 2.
        seismic: (N, 5, 1000, 70) physical amplitude.
        forward: forward modelling of one map, (1, 70, 70) -> (5, 1000, 70); ``ubq.data.forward_model``.

    Raises:
        ValueError: fewer than two pairs, or counts that differ.
    """
    if len(velocity) != len(seismic) or len(velocity) < 2:
        raise ValueError(f"needs at least 2 pairs: {len(velocity)} maps, {len(seismic)} gathers")
    modelled = [torch.from_numpy(np.array(forward(v))) for v in velocity]
    gathers = [torch.from_numpy(np.array(s)) for s in seismic]
    shifted = modelled[1:] + modelled[:1]
    each = tuple(relative_l2(g, m) for g, m in zip(gathers, modelled, strict=True))
    return PhysicsResidual(
        matched=float(np.mean(each)),
        shuffled=float(np.mean([relative_l2(g, m) for g, m in zip(gathers, shifted, strict=True)])),
        pairs=len(gathers),
        each=each,
    )
