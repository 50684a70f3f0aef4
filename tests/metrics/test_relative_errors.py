"""Relative errors, SSIM and the physics residual on inputs whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ubq.metrics import physics_errors, physics_reference, relative_l2, seismic_error, ssim


def log(x: torch.Tensor) -> torch.Tensor:
    return torch.sign(x) * torch.log1p(x.abs())


@given(st.floats(-0.9, 10))
def test_relative_l2_of_a_scaled_copy_is_the_scale_off(off: float) -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert relative_l2((1 + off) * x, x) == pytest.approx(abs(off), abs=1e-6)


def test_relative_l2_of_zeros() -> None:
    zeros = torch.zeros(3)
    assert relative_l2(zeros, zeros) == 0
    assert relative_l2(torch.ones(3), zeros) == float("inf")
    with pytest.raises(ValueError, match="shapes differ"):
        relative_l2(zeros, torch.zeros(4))


def test_late_errors_are_of_the_late_part_alone() -> None:
    real = torch.randn(2, 5, 1000, 70)
    result = real.clone()
    result[..., 700:, :] = 0
    found = seismic_error(result, real, log)
    assert found.physical == pytest.approx((300 / 1000) ** 0.5, rel=0.02)
    assert found.late_physical == pytest.approx((300 / 399) ** 0.5, rel=0.02)
    assert found.late_log_normalised == pytest.approx(found.late_physical, rel=0.05)
    early = real.clone()
    early[..., :600, :] = 0
    assert seismic_error(early, real, log).late_physical == 0


def test_ssim_of_equal_and_of_unrelated_maps() -> None:
    maps = 1500 + 3000 * torch.rand(2, 1, 70, 70)
    assert ssim(maps, maps, 1500, 4500) == pytest.approx(1)
    assert ssim(maps, maps.flip(0), 1500, 4500) < 0.2
    normalised = (maps - 3000) / 1500
    other = normalised + 0.1 * torch.randn_like(normalised)
    assert ssim(other, normalised) == pytest.approx(ssim(3000 + 1500 * other, maps, 1500, 4500), abs=1e-4)


def test_ssim_refuses_gathers() -> None:
    gathers = torch.zeros(1, 5, 1000, 70)
    with pytest.raises(ValueError, match="velocity maps"):
        ssim(gathers, gathers)


def test_physics_errors_tell_what_a_gather_knows_of_its_map() -> None:
    rng = np.random.default_rng(0)
    velocity = rng.uniform(1500, 4500, (3, 1, 70, 70))

    def forward(maps: np.ndarray) -> np.ndarray:
        """A "direct wave" of the source row's mean, and "reflections" of what differs from it."""
        mean = maps[:, 0, 1].mean(1)[:, None, None]
        return (mean + maps[:, 0] - mean)[:, None].repeat(2, axis=1)

    own, direct = physics_reference(velocity, forward)
    np.testing.assert_array_equal(own, forward(velocity))
    assert np.ptp(direct, axis=(1, 2, 3)).tolist() == [0, 0, 0]
    assert physics_errors(own, own, direct).tolist() == [0, 0, 0]
    np.testing.assert_allclose(physics_errors(direct, own, direct), 1)
    np.testing.assert_allclose(physics_errors(own + 0.25 * (own - direct), own, direct), 0.25)
    assert (physics_errors(own[::-1], own, direct)[[0, 2]] > 1).all()
    assert physics_errors(np.stack([own[0], direct[0]]), direct[:1].repeat(2, 0), direct[:1].repeat(2, 0)).tolist() == [
        np.inf,
        0,
    ]
