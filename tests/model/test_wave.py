"""Both solvers of the wave equation: against deepwave, against each other, and against what any solver must do."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from ubq.acquisition import SOURCES, Acquisition, acquisition_for
from ubq.data.synthetic import synthesise_velocity
from ubq.metrics.physics import physics_errors, physics_reference
from ubq.model.wave import WaveEquation
from ubq.runtime import wave

SHORT = Acquisition(SOURCES, 400)


def in_numpy(acquisition: Acquisition = SHORT) -> wave.WaveEquation:
    return wave.WaveEquation(**asdict(acquisition))


def in_torch(acquisition: Acquisition = SHORT) -> torch.jit.ScriptModule:
    return torch.jit.script(WaveEquation(**asdict(acquisition)))


def relative(ours: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """Of them, the second is fast enough for the reference to halve its time step."""
    return np.concatenate([synthesise_velocity("curvefault-a", 1, seed=4), synthesise_velocity("flatvel-a", 1, seed=6)])


@pytest.fixture(scope="module")
def gathers(maps: np.ndarray) -> np.ndarray:
    return in_numpy()(maps)


def test_the_gathers_are_deepwaves(maps: np.ndarray) -> None:
    pytest.importorskip("deepwave", reason="the reference needs the physics extra")
    from ubq.data.forward import forward_model

    def reference(velocity: np.ndarray) -> np.ndarray:
        return np.stack([forward_model(v) for v in velocity])

    assert maps[0].max() < 4243 < maps[1].max()
    ours = in_torch(Acquisition(SOURCES, 1000))(torch.from_numpy(maps)).numpy()
    wanted, direct = physics_reference(maps, reference)
    assert max(relative(*pair) for pair in zip(ours, wanted, strict=True)) < 1e-3
    assert physics_errors(ours, wanted, direct).max() < 0.02


def test_numpy_and_torchscript_give_the_same_numbers(maps: np.ndarray, gathers: np.ndarray) -> None:
    scripted = in_torch()(torch.from_numpy(maps)).numpy()
    assert scripted.shape == gathers.shape == (2, 5, 400, 70)
    assert scripted.dtype == gathers.dtype == np.float32
    assert relative(scripted, gathers) < 1e-5


def test_a_map_has_one_gather_whatever_it_is_modelled_with(maps: np.ndarray, gathers: np.ndarray) -> None:
    np.testing.assert_array_equal(in_numpy()(maps[1:])[0], gathers[1])
    scripted = in_torch()
    assert torch.equal(scripted(torch.from_numpy(maps))[1], scripted(torch.from_numpy(maps[1:]))[0])


def test_a_shorter_recording_is_the_beginning_of_a_longer_one(maps: np.ndarray, gathers: np.ndarray) -> None:
    """Rows are left out of the solution by what can still be recorded."""
    shorter = in_numpy(Acquisition(SOURCES, 250))(maps)
    assert relative(shorter, gathers[:, :, :250]) < 2e-3


def test_sources_and_receivers_can_be_exchanged(gathers: np.ndarray) -> None:
    """Reciprocity; the source is in units of its own velocity squared, which is the same all along the first rows."""
    for i, j in ((0, 2), (1, 4)):
        there, back = gathers[1, i, :, SOURCES[j]], gathers[1, j, :, SOURCES[i]]
        assert relative(there, back) < 2e-3


def test_an_interface_reflects_where_it_lies() -> None:
    layered = np.full((1, 1, 70, 70), 2000.0, np.float32)
    layered[..., 25:, :] = 3000.0
    both = in_numpy()(np.concatenate([layered, np.full_like(layered, 2000.0)]))
    echo = np.abs((both[0] - both[1])[2, :, SOURCES[2]])
    assert abs(int(echo.argmax()) - (73 + 2 * 235 / 2)) < 15


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_impossible_velocities_are_refused(maps: np.ndarray, wrong: float) -> None:
    broken = maps[:1].copy()
    broken[0, 0, 40, 40] = wrong
    with pytest.raises(ValueError, match="positive and finite"):
        in_numpy()(broken)
    with pytest.raises(torch.jit.Error, match="positive and finite"):
        in_torch()(torch.from_numpy(broken))


def test_the_acquisition_follows_the_shape_of_the_gathers(maps: np.ndarray) -> None:
    assert acquisition_for((1, 70, 70), (5, 1000, 70)) == Acquisition(SOURCES, 1000)
    fewer = acquisition_for((1, 70, 70), (3, 64, 70))
    assert fewer.sources == (0, 34, 69)
    assert in_numpy(fewer)(maps).shape == (2, 3, 64, 70)
    assert acquisition_for((1, 70, 70), (1, 8, 70)).sources == (34,)
    for shape in ((5, 1000, 35), (71, 1000, 70)):
        assert acquisition_for((1, 70, 70), shape) is None
