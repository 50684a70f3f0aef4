"""Scaling and its inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ubq.config.schema import DataConfig
from ubq.data.normalization import Normalization, for_config
from ubq.errors import UsageError

RANGES = Normalization(-26.48, 52.32, 1500.0, 4500.0)
NUMBERS = st.lists(st.floats(-60.0, 60.0, width=32), min_size=1, max_size=8)


def test_the_ends_of_the_ranges_become_minus_one_and_one() -> None:
    assert RANGES.velocity(np.array([1500.0, 3000.0, 4500.0])) == pytest.approx([-1.0, 0.0, 1.0])
    assert RANGES.seismic(np.array([-26.48, 52.32])) == pytest.approx([-1.0, 1.0])


def test_zero_amplitude_lies_where_the_logarithms_put_it() -> None:
    low, high = -math.log(27.48), math.log(53.32)
    assert RANGES.seismic(np.array([0.0])) == pytest.approx([-2 * low / (high - low) - 1])


@given(NUMBERS)
def test_seismic_there_and_back_alike_in_numpy_and_torch(values: list[float]) -> None:
    array = np.array(values, np.float32)
    scaled, tensor = RANGES.seismic(array), RANGES.seismic(torch.from_numpy(array))
    assert scaled.dtype == np.float32
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(scaled, tensor.numpy(), atol=1e-6)
    np.testing.assert_allclose(RANGES.unseismic(scaled), array, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(RANGES.unseismic(tensor).numpy(), array, rtol=1e-5, atol=1e-5)


@given(st.lists(st.floats(0.0, 8000.0, width=32), min_size=1, max_size=8))
def test_velocity_there_and_back(values: list[float]) -> None:
    tensor = torch.tensor(values)
    np.testing.assert_allclose(RANGES.unvelocity(RANGES.velocity(tensor)), values, rtol=1e-5, atol=1e-2)


def test_stored_forms_read_back() -> None:
    assert Normalization.from_dict(RANGES.to_dict()) == RANGES
    assert Normalization.from_list(RANGES.to_list()) == RANGES


def test_configuration_chooses_the_ranges() -> None:
    assert for_config(DataConfig(family="curvefault-a")) == RANGES
    assert for_config(DataConfig(family="curvefault-a", normalization="fork")).to_list() == [0.0, 12.0, 1800.0, 5000.0]
    numbers = (-1.0, 2.0, 100.0, 200.0)
    assert for_config(DataConfig(normalization=numbers)).to_list() == list(numbers)


def test_the_fork_has_no_ranges_for_some_families() -> None:
    with pytest.raises(UsageError, match=r"no ranges for style-b.*curvefault-a"):
        for_config(DataConfig(family="style-b", normalization="fork"))


@pytest.mark.parametrize("ranges", [(1, 1, 0, 1), (0, 1, 5, 4), (0, math.nan, 0, 1), (0, math.inf, 0, 1)])
def test_empty_ranges_are_refused(ranges: tuple[float, float, float, float]) -> None:
    with pytest.raises(UsageError, match="is empty"):
        Normalization(*ranges)
