"""Schedules: which time steps are visited, and whether each solver solves what it should."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ubq.config.schema import ExportConfig
from ubq.errors import UsageError
from ubq.model import GaussianDiffusion
from ubq.quant.solver import angle_even_times, log_snr, make_schedule, offered_steps, spaced_times, training_schedule

DIFFUSION = GaussianDiffusion(256, "v")
CUMPROD = training_schedule(256)


def run(solver: str, objective: str, steps: int, mean: float, std: float, count: int = 20000) -> torch.Tensor:
    """Draw from a Gaussian data set, whose posterior mean E[x0 | x_t] is known."""
    schedule = make_schedule(CUMPROD, objective, solver, steps)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    previous = torch.zeros_like(x)
    for time, c in zip(schedule.times, schedule.coefficients, strict=True):
        a, s = CUMPROD[time].sqrt(), (1 - CUMPROD[time]).sqrt()
        x0 = mean + a * std**2 * (x - a * mean) / (a**2 * std**2 + s**2)
        noise = (x - a * x0) / s
        output = {"v": a * noise - s * x0, "noise": noise, "x0": x0}[objective]
        again = c[0] * x + c[1] * output
        assert torch.allclose(again, x0, atol=1e-6), "the prediction is turned back into x0"
        fresh = torch.randn(count, generator=generator, dtype=torch.float64)
        x = c[2] * x + c[3] * x0 + c[4] * previous + c[5] * fresh
        previous = x0
    return x


@pytest.mark.parametrize("objective", ["v", "noise", "x0"])
@pytest.mark.parametrize(
    ("solver", "steps", "within"),
    # ancestral sampling with the posterior variance is known to come out too narrow at few steps
    [("ddpm", 256, 0.05), ("ddpm", 64, 0.1), ("ddim", 64, 0.03), ("dpmpp2m", 20, 0.03)],
)
def test_a_gaussian_data_set_comes_out(solver: str, steps: int, within: float, objective: str) -> None:
    drawn = run(solver, objective, steps, mean=0.3, std=0.2)
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.2, rel=within)


def test_second_order_is_better_than_first_at_the_same_steps() -> None:
    def error(solver: str) -> float:
        return abs(float(run(solver, "v", 10, 0.0, 0.3).std()) - 0.3)

    assert error("dpmpp2m") < error("ddim")


@given(trained=st.integers(2, 300), data=st.data())
def test_times_are_distinct_and_fall_from_the_last_to_zero(trained: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, trained))
    times = spaced_times(training_schedule(trained), steps).tolist()
    assert len(times) == steps
    assert times[0] == trained - 1
    assert all(a > b for a, b in itertools.pairwise(times))
    assert times[-1] == 0 or steps == 1


def test_times_are_even_in_log_snr() -> None:
    times = spaced_times(CUMPROD, 20)
    gaps = log_snr(CUMPROD)[times].diff()[2:]
    assert float(gaps.max() / gaps.min()) < 2.0


@pytest.mark.parametrize("solver", ["ddim", "dpmpp2m"])
def test_deterministic_solvers_add_no_noise(solver: str) -> None:
    assert not make_schedule(CUMPROD, "v", solver, 10).coefficients[:, 5].any()  # type: ignore[arg-type]


def test_all_ddpm_steps_are_upstreams() -> None:
    c = make_schedule(CUMPROD, "v", "ddpm", 256).coefficients.flip(0)
    assert torch.allclose(c[:, 3].float(), DIFFUSION.posterior_mean_coef1, atol=1e-5)
    assert torch.allclose(c[:, 2].float(), DIFFUSION.posterior_mean_coef2, atol=1e-5)
    std = (0.5 * DIFFUSION.posterior_log_variance_clipped).exp()
    assert torch.allclose(c[1:, 5].float(), std[1:], atol=1e-5)
    assert c[0, 5] == 0


def test_offered_steps() -> None:
    assert offered_steps(ExportConfig(solver="dpmpp2m", step_choices=(20, 30)), 256) == (10, 20, 30)
    assert offered_steps(ExportConfig(solver="ddpm", steps=50), 256) == (50, 256)
    assert offered_steps(ExportConfig(solver="ddim"), 8) == (8,)
    with pytest.raises(UsageError, match="300 sampling steps"):
        offered_steps(ExportConfig(steps=300), 256)


@pytest.mark.parametrize(
    ("steps", "times"), [(1, [255]), (2, [255, 126]), (3, [255, 169, 83]), (4, [255, 190, 126, 61])]
)
def test_a_few_steps_turn_by_equal_angles(steps: int, times: list[int]) -> None:
    assert angle_even_times(CUMPROD, steps).tolist() == times
    schedule = make_schedule(CUMPROD, "v", "ddim", steps, angle_even_times(CUMPROD, steps))
    assert schedule.times.tolist() == times
    assert schedule.coefficients[-1, 2:].tolist() == [0, 1, 0, 0], "the last step ends at clean data"
