"""Small files named as OpenFWI's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Writer = Callable[..., Path]


@pytest.fixture
def write_velocity() -> Writer:
    """Write flat two-layer maps, another one for every sample: ``write_velocity(path, samples, first=1)``."""

    def write(path: Path, samples: int = 2, first: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        maps = np.full((samples, 1, 70, 70), 3000.0, np.float32)
        maps[:, :, :35] = 2000.0 + first + np.arange(samples, dtype=np.float32)[:, None, None, None]
        np.save(path, maps)
        return path

    return write


@pytest.fixture
def write_seismic() -> Writer:
    """Write gathers whose values tell their sample."""

    def write(path: Path, samples: int = 2, first: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        gathers = np.zeros((samples, 5, 1000, 70), np.float32)
        gathers[:, 0, 0, 0], gathers[:, 0, 0, 1] = -20.0, 40.0
        gathers[:, 1, 1, 1] = first + np.arange(samples)
        np.save(path, gathers)
        return path

    return write
