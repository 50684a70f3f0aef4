"""Finding, pairing, splitting and reading files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ubq.config.schema import DataConfig
from ubq.data.normalization import for_config
from ubq.data.pairs import held_out_samples, open_pairs
from ubq.errors import DataError

Writer = Callable[..., Path]


def config(velocity: Path | str, seismic: Path | str | None = None, **keys: object) -> DataConfig:
    place = str(velocity if seismic is None else seismic)
    return DataConfig(train_velocity=str(velocity), train_seismic=place, **keys)  # type: ignore[arg-type]


@pytest.fixture
def fault(tmp_path: Path, write_velocity: Writer, write_seismic: Writer) -> Path:
    """Five CurveFault-A files of both kinds in one folder, two of them held out officially."""
    for position, number in enumerate((0, 1, 31, 32, 35)):
        write_velocity(tmp_path / f"vel3_1_{number}.npy", 2, first=10 * position)
        write_seismic(tmp_path / f"seis3_1_{number}.npy", 2, first=10 * position)
    return tmp_path


def tops(pairs_velocity: torch.Tensor) -> list[int]:
    return [int(v) - 2000 for v in pairs_velocity[:, 0, 0, 0]]


def test_official_numbers_split_and_pairs_stay_together(fault: Path) -> None:
    split = open_pairs(config(fault), seed=0)
    assert split.rule == "official file numbers of curvefault-a"
    assert (len(split.train), len(split.val)) == (6, 4)
    assert tops(split.train.velocity_batch(range(6))) == [0, 1, 10, 11, 20, 21]
    assert split.val.seismic_batch([3, 0])[:, 1, 1, 1].tolist() == [41, 30]
    assert tops(split.val.velocity_batch([3, 0])) == [41, 30]
    assert split.train.velocity(2).shape == (1, 70, 70)
    assert split.train.seismic(2).shape == (5, 1000, 70)


def test_batches_are_normalised_on_request(fault: Path) -> None:
    data = config(fault)
    pairs, ranges = open_pairs(data, seed=0).train, for_config(data)
    assert torch.equal(pairs.velocity_batch([1], ranges), ranges.velocity(pairs.velocity_batch([1])))
    assert torch.equal(pairs.seismic_batch([1], ranges), ranges.seismic(pairs.seismic_batch([1])))


@pytest.mark.parametrize("layout", ["subfolders", "two folders", "single files", "patterns"])
def test_layouts_find_the_same_pairs(
    tmp_path: Path, layout: str, write_velocity: Writer, write_seismic: Writer
) -> None:
    for number in (1, 2, 49):
        write_velocity(tmp_path / "model" / f"model{number}.npy", 2, first=10 * number)
        write_seismic(tmp_path / "data" / f"data{number}.npy", 2, first=10 * number)
    velocity, seismic = {
        "subfolders": (tmp_path, tmp_path),
        "two folders": (tmp_path / "model", tmp_path / "data"),
        "single files": (tmp_path / "model" / "model2.npy", tmp_path / "data" / "data2.npy"),
        "patterns": (tmp_path / "model" / "model?.npy", tmp_path / "data" / "data?.npy"),
    }[layout]
    split = open_pairs(config(velocity, seismic, family="flatvel-a", min_val_samples=1), seed=1)
    found = sorted(
        (int(v[0, 0, 0]) - 2000, int(s[1, 1, 1]))
        for side in (split.train, split.val)
        for v, s in zip(side.velocity_batch(range(len(side))), side.seismic_batch(range(len(side))), strict=True)
    )
    numbers = {"single files": (2,), "patterns": (1, 2)}.get(layout, (1, 2, 49))
    assert found == [(10 * n + k, 10 * n + k) for n in numbers for k in (0, 1)]


def test_single_files_pair_whatever_they_are_called(
    tmp_path: Path, write_velocity: Writer, write_seismic: Writer
) -> None:
    data = config(write_velocity(tmp_path / "maps.npy", 4), write_seismic(tmp_path / "shots.npy", 4))
    split = open_pairs(data, seed=0)
    assert (len(split.train), len(split.val)) == (2, 2)


def test_validation_folders_win(fault: Path, tmp_path_factory: pytest.TempPathFactory, write_velocity: Writer) -> None:
    other = tmp_path_factory.mktemp("val")
    write_velocity(other / "vel2_1_0.npy", 3, first=500)
    data = config(fault, val_velocity=str(other), val_seismic=str(other))
    split = open_pairs(data, seed=0, need_seismic=False)
    assert (len(split.train), tops(split.val.velocity_batch([0, 2]))) == (10, [500, 502])
    assert split.rule == "validation folder given"
    same = config(fault, val_velocity=str(fault), val_seismic=str(fault))
    with pytest.raises(DataError, match="both training and validation"):
        open_pairs(same, seed=0, need_seismic=False)


def test_without_official_numbers_a_seeded_share_is_held_out(tmp_path: Path, write_velocity: Writer) -> None:
    write_velocity(tmp_path / "vel2_1_0.npy", 40)
    data = config(tmp_path, min_val_samples=5)

    def sides(seed: int) -> tuple[list[int], list[int]]:
        split = open_pairs(data, seed, need_seismic=False)
        assert "random 5 of 40 samples" in split.rule
        assert f"seed {seed}" in split.rule
        assert "leave one side empty" in split.rule
        return tuple(tops(side.velocity_batch(range(len(side)))) for side in (split.train, split.val))  # type: ignore[return-value]

    train, val = sides(3)
    assert sorted(train + val) == list(range(40))
    assert sides(3) == (train, val)
    assert sides(4)[1] != val
    other = open_pairs(config(tmp_path, family="style-a"), 0, need_seismic=False)
    assert "file names are not those of style-a" in other.rule
    assert len(other.val) == 20


@given(st.integers(2, 10**6), st.floats(0.001, 0.999), st.integers(1, 10**4))
def test_held_out_samples_keep_their_bounds(total: int, fraction: float, minimum: int) -> None:
    held = held_out_samples(total, DataConfig(val_fraction=fraction, min_val_samples=minimum))
    assert 1 <= held <= total // 2
    assert held >= min(minimum, total // 2)


def test_velocity_only_never_opens_a_seismic_file(fault: Path) -> None:
    expected = open_pairs(config(fault), seed=0)
    for path in fault.glob("seis*.npy"):
        path.write_bytes(b"not an array")
    split = open_pairs(config(fault), seed=0, need_seismic=False)
    assert torch.equal(split.val.velocity_batch(range(4)), expected.val.velocity_batch(range(4)))
    assert not split.val.has_seismic
    with pytest.raises(DataError, match=r"seis3_1_0.npy is a text file \(not an array\)"):
        open_pairs(config(fault), seed=0)


def test_problems_are_named_with_their_fix(fault: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def message(data: DataConfig) -> str:
        with pytest.raises(DataError) as caught:
            open_pairs(data, seed=0)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    empty = tmp_path_factory.mktemp("empty")
    assert "no data folder is given" in message(DataConfig())
    assert f"{fault}/none does not exist" in message(config(fault / "none"))
    assert f"{empty} is empty" in message(config(empty))
    np.save(empty / "other.npy", np.zeros(1))
    assert "holds other.npy, not named as OpenFWI names its velocity files" in message(config(empty))
    assert "holds other.npy, not named as OpenFWI names its seismic files" in message(config(fault, empty))

    (fault / "vel3_1_1.npy").rename(fault / "hidden")
    assert "seis3_1_1.npy has no partner vel3_1_1.npy" in message(config(fault))
    (fault / "hidden").rename(fault / "vel3_1_1.npy")

    np.save(fault / "vel3_1_1.npy", np.full((1, 1, 70, 70), 2000, np.float32))
    assert "seis3_1_1.npy has 2 samples, but" in message(config(fault))
    shutil.copy(fault / "vel3_1_0.npy", fault / "vel3_1_1.npy")

    for name in ("a", "b"):
        (empty / name).mkdir()
        shutil.copy(fault / "vel3_1_0.npy", empty / name)
    assert "have the same name" in message(config(empty))


def test_one_sample_cannot_be_split(tmp_path: Path, write_velocity: Writer) -> None:
    write_velocity(tmp_path / "model1.npy", 1)
    with pytest.raises(DataError, match="one sample"):
        open_pairs(config(tmp_path), seed=0, need_seismic=False)


_READ_EVERYTHING = """
import sys
from ubq.config.schema import DataConfig
from ubq.data.pairs import open_pairs
from ubq.jobs.machine import peak_memory
split = open_pairs(DataConfig(train_velocity=sys.argv[1], train_seismic=sys.argv[1], min_val_samples=1), seed=0)
for side in (split.train, split.val):
    for i in range(0, len(side), 4):
        side.seismic_batch(range(i, min(i + 4, len(side))))
        side.velocity_batch(range(i, min(i + 4, len(side))))
print(peak_memory() // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process counts its parent's memory at the fork")
def test_resident_memory_does_not_grow_with_the_data_set(tmp_path: Path, write_velocity: Writer) -> None:
    def peak_megabytes(files: int) -> float:
        folder = tmp_path / str(files)
        for number in range(files):
            write_velocity(folder / f"vel2_1_{number}.npy", 12)
            np.save(folder / f"seis2_1_{number}.npy", np.ones((12, 5, 1000, 70), np.float32))
        done = subprocess.run(
            [sys.executable, "-c", _READ_EVERYTHING, str(folder)], capture_output=True, text=True, check=True
        )
        shutil.rmtree(folder)
        return int(done.stdout) / 1024

    one, eight = peak_megabytes(1), peak_megabytes(8)
    # 16.8 MB of seismic a file: a memory map that is kept would add 118 MB
    assert eight - one < 12, f"{one:.0f} MB for one file, {eight:.0f} MB for eight"


def test_real_maps_open(shared: Path) -> None:
    for family in ("flatfault-a", "curvevel-a"):
        folder = shared / "openfwi" / family
        split = open_pairs(config(folder, family=family), seed=0, need_seismic=False)
        assert (len(split.train), len(split.val)) == (250, 250)
        batch = split.val.velocity_batch(range(250))
        assert 1499 < float(batch.min()) < float(batch.max()) < 4501
