"""Synthetic maps: their look against facts about OpenFWI, and the files they are written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ubq.config.schema import DataConfig
from ubq.data.families import FAMILIES
from ubq.data.pairs import open_pairs
from ubq.data.synthetic import VALIDATION_START, synthesise_velocity, write_synthetic
from ubq.errors import DataError, UsageError

NAMES = sorted(FAMILIES)


def plateaus(velocity_map: np.ndarray) -> np.ndarray:
    """Velocities that fill more than 100 cells of a (70, 70) map, from slow to fast."""
    counts = np.bincount(np.rint(velocity_map).astype(int).ravel())
    return np.flatnonzero(counts > 100)


@pytest.mark.parametrize("family", NAMES)
def test_maps_have_the_shape_and_range_of_openfwi(family: str) -> None:
    maps = synthesise_velocity(family, 40, seed=5)  # type: ignore[arg-type]
    assert maps.shape == (40, 1, 70, 70)
    assert maps.dtype == np.float32
    assert maps.min() >= 1500
    assert maps.max() <= 4500
    assert len({m.tobytes() for m in maps}) == 40


@settings(max_examples=20)
@given(st.sampled_from(NAMES), st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(1, 4))
def test_a_sample_does_not_depend_on_how_many_are_drawn(family: str, seed: int, start: int, count: int) -> None:
    whole = synthesise_velocity(family, 10, seed)  # type: ignore[arg-type]
    part = synthesise_velocity(family, count, seed, start)  # type: ignore[arg-type]
    np.testing.assert_array_equal(part, whole[start : start + count])


def test_seeds_families_and_sides_differ() -> None:
    maps = [
        synthesise_velocity("curvefault-a", 1, 0),
        synthesise_velocity("curvefault-a", 1, 1),
        synthesise_velocity("curvefault-b", 1, 0),
        synthesise_velocity("curvefault-a", 1, 0, VALIDATION_START),
    ]
    assert len({m.tobytes() for m in maps}) == 4


@pytest.mark.parametrize("family", ["flatfault-a", "curvefault-a"])
def test_fault_a_maps_match_the_facts_of_flatfault_a(family: str) -> None:
    maps = synthesise_velocity(family, 300, seed=2)[:, 0]  # type: ignore[arg-type]
    levels = [plateaus(m) for m in maps]
    four = [level for level in levels if len(level) == 4]
    assert len(four) > (0.9 if family == "flatfault-a" else 0.7) * len(maps)
    slow, fast = np.median([level[0] for level in four]), np.median([level[-1] for level in four])
    assert slow == pytest.approx(1919, abs=100)
    assert fast == pytest.approx(4053, abs=100)
    assert np.median(np.diff(four, axis=1)) == pytest.approx(585, abs=80)
    # interfaces are antialiased: some cells hold none of the four velocities, but few of them
    between = np.mean(
        [1 - np.isin(np.rint(m), level).mean() for m, level in zip(maps, levels, strict=True) if len(level) == 4]
    )
    assert 0.02 < between < 0.16


def test_curvevel_a_maps_match_the_facts_of_curvevel_a() -> None:
    maps = synthesise_velocity("curvevel-a", 300, seed=2)[:, 0]
    assert np.array_equal(maps, np.rint(maps))
    layers = [len(np.unique(m)) for m in maps]
    assert min(layers) >= 3
    assert max(layers) == 8
    relief = [np.ptp((m == m[0].min()).sum(axis=0)) for m in maps]
    assert np.median(relief) == pytest.approx(20, abs=4)
    assert np.median([m[0].min() for m in maps]) == pytest.approx(1800, abs=120)


@pytest.mark.parametrize("family", ["flatvel-a", "curvevel-a", "flatfault-a", "curvefault-a"])
def test_velocity_rises_with_depth_in_the_a_sets(family: str) -> None:
    maps = synthesise_velocity(family, 100, seed=3)[:, 0]  # type: ignore[arg-type]
    rows = maps.mean(axis=2)
    falling = (np.diff(rows, axis=1) < -30).mean()
    assert falling < 0.02
    assert (maps[:, -1].mean(axis=1) > maps[:, 0].mean(axis=1)).all()


@pytest.mark.parametrize("family", ["flatvel-b", "curvevel-b"])
def test_velocity_is_in_any_order_in_the_vel_b_sets(family: str) -> None:
    maps = synthesise_velocity(family, 100, seed=3)[:, 0]  # type: ignore[arg-type]
    assert 0.3 < (maps[:, -1].mean(axis=1) > maps[:, 0].mean(axis=1)).mean() < 0.7


def test_flat_sets_are_flat_where_no_fault_is_and_faults_break_them() -> None:
    flat = synthesise_velocity("flatvel-a", 50, seed=1)[:, 0]
    assert (np.ptp(flat, axis=2) == 0).all()
    faulted = synthesise_velocity("flatfault-a", 50, seed=1)[:, 0]
    broken = (np.ptp(faulted, axis=2) > 100).any(axis=1)
    assert broken.mean() > 0.9


def rough(maps: np.ndarray) -> float:
    return float(np.abs(np.diff(maps, axis=-1)).mean())


@pytest.mark.parametrize("pair", ["flatfault", "curvefault", "style"])
def test_b_sets_are_harder(pair: str) -> None:
    easy, hard = (synthesise_velocity(f"{pair}-{v}", 60, seed=1) for v in "ab")  # type: ignore[arg-type]
    assert rough(hard) > 1.2 * rough(easy)


@pytest.mark.parametrize(("family", "path"), [("flatfault-a", "velocity_map/vel2_1_0"), ("curvevel-a", "model/model1")])
def test_synthetic_maps_resemble_real_ones(shared: Path, family: str, path: str) -> None:
    """First and second moments by depth, and how much changes across: not sample by sample."""
    real = np.load(shared / "openfwi" / family / f"{path}.npy")[:, 0]
    like = synthesise_velocity(family, 500, seed=11)[:, 0]  # type: ignore[arg-type]
    np.testing.assert_allclose(like.mean(axis=(0, 2)), real.mean(axis=(0, 2)), atol=200)
    np.testing.assert_allclose(like.std(axis=(0, 2)), real.std(axis=(0, 2)), atol=120)
    assert rough(like) == pytest.approx(rough(real), rel=0.35)
    nearest = min(np.abs(like[:50, None] - real[None, :50]).mean(axis=(2, 3)).min(), 1e9)
    assert nearest > 20, "a synthetic map is a copy of a real one"


def test_files_lie_on_both_sides_of_the_official_split(tmp_path: Path) -> None:
    files = write_synthetic("curvevel-b", 510, 7, seed=3, out=tmp_path / "set")
    assert [f.relative_to(tmp_path / "set").as_posix() for f in files] == [
        "model/model1.npy",
        "model/model2.npy",
        "model/model49.npy",
    ]
    place = str(tmp_path / "set")
    split = open_pairs(DataConfig(family="curvevel-b", train_velocity=place, train_seismic=place), 0, False)
    assert (len(split.train), len(split.val)) == (510, 7)
    assert split.rule == "official file numbers of curvevel-b"
    expected = synthesise_velocity("curvevel-b", 1, 3, start=505)
    np.testing.assert_array_equal(split.train.velocity_batch([505]).numpy(), expected)
    held_out = synthesise_velocity("curvevel-b", 7, 3, start=VALIDATION_START)
    np.testing.assert_array_equal(split.val.velocity_batch(range(7)).numpy(), held_out)


def test_a_call_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "set"
    files = write_synthetic("style-a", 3, 2, seed=1, out=out)
    before = {f: f.read_bytes() for f in files}
    stamps = files[0].stat().st_mtime_ns
    files[1].unlink()
    shown: list[tuple[int, int]] = []
    write_synthetic("style-a", 3, 2, seed=1, out=out, progress=lambda done, total: shown.append((done, total)))
    assert {f: f.read_bytes() for f in files} == before
    assert files[0].stat().st_mtime_ns == stamps
    assert shown[-1] == (5, 5)


def test_other_data_are_never_written_over(tmp_path: Path) -> None:
    out = tmp_path / "set"
    first = write_synthetic("style-a", 3, 2, seed=1, out=out)
    kept = first[0].read_bytes()
    with pytest.raises(DataError, match="already holds other synthetic maps"):
        write_synthetic("style-a", 3, 2, seed=2, out=out)
    assert first[0].read_bytes() == kept
    (out / "data1.npy").write_bytes(b"gathers of the old maps")
    write_synthetic("curvefault-a", 4, 2, seed=2, out=out, replace=True)
    assert sorted(p.name for p in out.rglob("*.npy")) == ["vel2_1_0.npy", "vel2_1_32.npy"]

    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "vel2_1_0.npy").write_bytes(b"real data")
    with pytest.raises(DataError, match="not empty"):
        write_synthetic("curvefault-a", 4, 2, seed=2, out=foreign, replace=True)
    assert (foreign / "vel2_1_0.npy").read_bytes() == b"real data"


def test_impossible_numbers_of_samples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="room for 1 to 6000"):
        write_synthetic("curvefault-a", 4, 6001, seed=0, out=tmp_path / "x")
    with pytest.raises(UsageError, match="0 synthetic train"):
        write_synthetic("curvefault-a", 0, 1, seed=0, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_unwritable_folder_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_synthetic("curvefault-a", 2, 2, seed=0, out=tmp_path / "file" / "set")
