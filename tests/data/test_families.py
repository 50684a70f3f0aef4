"""The table of families against the published counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ubq.data.families import FAMILIES, SAMPLES_PER_FILE, FileId, parse_name, recognise


@pytest.mark.parametrize(
    ("group", "train", "val"),
    [("vel", 24_000, 6_000), ("fault", 48_000, 6_000), ("style", 60_000, 7_000)],
)
def test_official_splits_have_the_published_sizes(group: str, train: int, val: int) -> None:
    members = [facts for name, facts in FAMILIES.items() if group in name]
    assert members
    for facts in members:
        assert len(facts.file_ids("train")) * SAMPLES_PER_FILE == train
        assert len(facts.file_ids("val")) * SAMPLES_PER_FILE == val
        assert all(facts.owns(id) and not facts.held_out(id) for id in facts.file_ids("train"))
        assert all(facts.owns(id) and facts.held_out(id) for id in facts.file_ids("val"))


@given(st.sampled_from(["numbered", "fault"]), st.lists(st.integers(0, 999), min_size=3, max_size=3))
def test_names_read_back(convention: str, numbers: list[int]) -> None:
    id = FileId(convention, tuple(numbers[:1] if convention == "numbered" else numbers))  # type: ignore[arg-type]
    assert parse_name(id.name("velocity")) == ("velocity", id)
    assert parse_name(id.name("seismic")) == ("seismic", id)


@pytest.mark.parametrize(
    "name", ["model.npy", "model1.npz", "vel2_1.npy", "seis2_1_0.npy.partial", "xmodel1.npy", "._model1.npy"]
)
def test_near_misses_are_not_openfwi_names(name: str) -> None:
    assert parse_name(name) is None


def test_a_folder_name_settles_which_family() -> None:
    files = [FileId("fault", (2, 1, 0))]
    assert recognise(files) == ("flatfault-a", "curvefault-a")
    assert recognise(files, ["data", "CurveFault_A"]) == ("curvefault-a",)
    assert recognise([FileId("numbered", (130,))]) == ("style-a", "style-b")
    assert recognise([FileId("numbered", (130,)), *files]) == ()
    assert recognise([]) == ()
