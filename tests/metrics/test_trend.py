"""The trend test on series whose trend is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ubq.metrics import mann_kendall


def test_known_tau_and_p() -> None:
    """Five rising points have 5! orders, two of them monotone; six reach p < 0.01."""
    five = mann_kendall([1, 2, 3, 4, 5])
    assert (five.tau, five.p) == pytest.approx((1, 2 / 120))
    assert five.direction == "none"
    assert mann_kendall([1, 2, 3, 4, 5, 6]).direction == "up"
    assert mann_kendall([1, 3, 2, 4]).tau == pytest.approx(4 / 6)


@pytest.mark.parametrize("count", [20, 64, 500, 5000])
def test_falling_rising_and_flat_with_noise(count: int) -> None:
    noise = np.random.default_rng(0).normal(size=count)
    line = np.linspace(0, 10, count)
    assert mann_kendall(noise - line).direction == "down"
    assert mann_kendall(noise + line).direction == "up"
    assert mann_kendall(noise).direction == "none"
    assert mann_kendall(noise).points <= 64


def test_false_alarms_stay_near_one_percent_even_for_correlated_noise() -> None:
    """Neighbouring losses correlate: an AR(1) series of 6400 rows has no trend, and must rarely be given one."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        noise = rng.normal(size=6400)
        series = np.convolve(noise, 0.8 ** np.arange(40), mode="valid")
        alarms += mann_kendall(series).direction != "none"
    assert alarms / 300 < 0.03


def test_a_constant_series_and_a_short_one_have_no_trend() -> None:
    assert mann_kendall([2.0] * 100).direction == "none"
    assert mann_kendall([]).direction == "none"
    assert mann_kendall([1.0]).direction == "none"


@given(arrays(np.float64, st.integers(2, 200), elements=st.floats(-1e6, 1e6)))
def test_turning_a_series_round_turns_its_trend_round(series: np.ndarray) -> None:
    forward, back = mann_kendall(series), mann_kendall(-series)
    assert back.tau == pytest.approx(-forward.tau)
    assert 0 <= forward.p <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        mann_kendall([1.0, bad, 2.0])
