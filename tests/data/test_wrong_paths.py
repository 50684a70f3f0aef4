"""A path that is not there: what was meant is said, for both places at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ubq.data.files import match_files
from ubq.errors import DataError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "CurveFault-A" / "velocity_map").mkdir(parents=True)
    (tmp_path / "CurveFault-A" / "seismic_data").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("CurveFalt-A/velocity_map", "CurveFault-A/velocity_map"),  # all of it is there
        ("curvefault_a/vel", "CurveFault-A"),
        ("CurveFault-A/velocity", "CurveFault-A/velocity_map"),
    ],
)
def test_the_likeliest_is_offered(home: Path, wrong: str, meant: str) -> None:
    with pytest.raises(DataError) as caught:
        match_files(home / wrong, "")
    assert caught.value.message == f"{home / wrong} does not exist"
    assert caught.value.fix == f"did you mean {home / meant}?"


def test_else_how_far_it_leads(home: Path) -> None:
    with pytest.raises(DataError) as caught:
        match_files(home / "CurveFault-A" / "zzz" / "deep", "")
    assert caught.value.fix == f"check the path: it leads as far as {home / 'CurveFault-A'}"


def test_one_place_for_both_is_named_once(home: Path) -> None:
    with pytest.raises(DataError) as caught:
        match_files(home / "CurveFalt-A", home / "CurveFalt-A")
    assert caught.value.message == f"{home / 'CurveFalt-A'} does not exist"


def test_both_of_two_wrong_places_are_named(home: Path) -> None:
    with pytest.raises(DataError) as caught:
        match_files(home / "CurveFalt-A/velocity_map", home / "CurveFalt-A/seismic_data")
    assert "velocity_map does not exist" in caught.value.message
    assert "seismic_data does not exist" in caught.value.message
    assert f"did you mean {home}/CurveFault-A/seismic_data?" in caught.value.fix
