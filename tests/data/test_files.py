"""Which files of a place are data: one rule for every part of ubq, and messages that say what is there instead."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ubq.cli import main
from ubq.config.schema import Config, DataConfig
from ubq.data.array_file import open_array
from ubq.data.files import data_files, files_of, find_data_set, no_data, with_data_found
from ubq.data.pairs import open_pairs
from ubq.data.split import SampleIds, split_from_dict, split_to_dict
from ubq.data.validate import inspect_folder, validate
from ubq.errors import DataError
from ubq.jobs.fingerprints import fingerprint
from ubq.stages.paths import RunPaths
from ubq.stages.prepare import Prepare

Writer = Callable[..., Path]
SHAPE = (5, 1000, 70)


def config_of(velocity: Path | str, seismic: Path | str = "") -> Config:
    places = {"train_velocity": str(velocity), "train_seismic": str(seismic or velocity)}
    return Config.model_validate({"data": {**places, "family": "curvefault-a"}})


@pytest.fixture
def data(tmp_path: Path, write_velocity: Writer, write_seismic: Writer) -> Path:
    """The seed's layout, with what people leave lying about."""
    for number in (0, 1, 33):
        write_velocity(tmp_path / f"velocity_map/vel2_1_{number}.npy", 2, first=10 * number)
        write_seismic(tmp_path / f"seismic_data/seis2_1_{number}.npy", 2, first=10 * number)
    for name in ("velocity_map/notes.npy", "seismic_data/._seis2_1_0.npy"):
        np.save(tmp_path / name, np.zeros(3))
    (tmp_path / "velocity_map/readme.txt").write_text("maps")
    return tmp_path


def test_every_part_of_ubq_takes_the_same_files(data: Path) -> None:
    config = config_of(data / "velocity_map", data / "seismic_data")
    names = [f"{stem}2_1_{number}.npy" for number in (0, 1, 33) for stem in ("vel", "seis")]
    assert [path.name for path in files_of(config.data)] == names
    assert [Path(p).name for p in Prepare().inputs(config)] == names
    split = open_pairs(config.data, 0)
    opened = [array.path.name for pair in split.train.files for array in (pair.velocity, pair.seismic) if array]
    assert opened == names
    for report in (validate(config.data, 0), inspect_folder(data / "velocity_map", data / "seismic_data")):
        assert sorted(Path(file.path).name for file in report.files) == sorted(names)


def test_spellings_and_strays_change_no_fingerprint(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def values(velocity: str, seismic: str) -> dict:
        return fingerprint(Prepare(), config_of(velocity, seismic), RunPaths(data / "run"), [Prepare()], None)

    monkeypatch.chdir(data)
    monkeypatch.setenv("HOME", str(data))
    first = values("velocity_map", "seismic_data")
    assert sum(key.startswith("input ") for key in first) == 6
    spellings = [
        ("velocity_map/", "./seismic_data"),
        (str(data / "velocity_map"), f"{data}/velocity_map/../seismic_data"),
        ("~/velocity_map", "~/seismic_data/"),
    ]
    for spelled in spellings:
        assert values(*spelled) == first
    np.save(data / "velocity_map/more_notes.npy", np.zeros(2))
    os.utime(data / "velocity_map/vel2_1_0.npy", (1, 1))
    assert values("velocity_map", "seismic_data") == first
    np.save(data / "velocity_map/vel2_1_0.npy", np.full((2, 1, 70, 70), 2500, np.float32))
    assert values("velocity_map", "seismic_data") != first


def test_a_fingerprint_of_an_older_ubq_does_not_clear_the_run_for_a_stray_file(data: Path) -> None:
    from ubq.jobs.fingerprints import changes, file_signature

    config = config_of(data / "velocity_map", data / "seismic_data")
    new = fingerprint(Prepare(), config, RunPaths(data / "run"), [Prepare()], None)
    stray = data / "velocity_map/notes.npy"
    assert changes({**new, f"input {stray}": file_signature(stray)}, new, {}) == []
    assert changes({**new, f"input {data}/vel9_1_1.npy": "gone"}, new, {}) != []
    assert changes({**new, "data.synth_samples": 1024}, new, {"data.synth_samples": 1024}) == []


HEADERS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9800128\n", "pointer of a large file"),
    "annex": (b"/annex/objects/SHA256E-s9--abc.npy\n", "git annex get"),
    "page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "web page"),
    "page2": (b"\n  <html lang=en>", "web page"),
    "empty": (b"", "is empty"),
    "zeros": (b"\0" * 400, "begins with zeros"),
    "npz": (b"PK\x03\x04\x14\0\0\0", "zip"),
    "gzip": (gzip.compress(b"x" * 50), "gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
    "names": (b"vel2_1_0.npy\nvel2_1_1.npy\n", "text file (vel2_1_0.npy)"),
    "json": (b'{"data": [1, 2]}', "text file"),
    "noise": (bytes(range(128, 250)), "not a .npy file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_a_file_of_another_format_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    content, words = HEADERS[kind]
    path = tmp_path / "vel2_1_0.npy"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_array(path, "velocity")
    assert words in str(caught.value)
    assert str(path) in caught.value.message
    assert caught.value.fix
    assert len(str(caught.value).splitlines()) == 1


ARRAYS = {
    "a list of names": (np.array(["vel2_1_0.npy", "vel2_1_1.npy"]), "holds text"),
    "objects": (np.array([{"a": 1}, None], dtype=object), "Python objects"),
    "structured": (np.zeros(3, [("v", "f4")]), "not float32"),
    "complex": (np.zeros((2, 1, 70, 70), np.complex64), "complex64, not float32"),
    "the other kind": (np.zeros((1, *SHAPE), np.float32), "holds seismic samples"),
    "no channel": (np.zeros((2, 70, 70), np.float32), "array[:, None]"),
    "one sample": (np.zeros((1, 70, 70), np.float32), "array[:, None]"),
    "other sizes": (np.zeros((2, 1, 64, 64), np.float32), "has shape (2, 1, 64, 64)"),
    "no samples": (np.zeros((0, 1, 70, 70), np.float32), "no samples"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_is_no_sample_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    array, words = ARRAYS[kind]
    path = tmp_path / "vel2_1_0.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError) as caught:
        open_array(path, "velocity")
    assert words in str(caught.value)


def test_a_folder_without_data_says_what_it_holds(tmp_path: Path) -> None:
    def message(kind: str = "velocity") -> str:
        with pytest.raises(DataError) as caught:
            data_files(tmp_path, kind)  # type: ignore[arg-type]
        return str(caught.value)

    (tmp_path / "a.npz").write_bytes(b"")
    (tmp_path / "b.npz").write_bytes(b"")
    assert "holds no .npy file, but 2 .npz" in message()
    np.save(tmp_path / "velocity1.npy", np.zeros(1))
    assert "holds velocity1.npy, not named as OpenFWI names" in message()
    assert f"give one file itself: {tmp_path}/velocity1.npy" in message()
    np.save(tmp_path / "data1.npy", np.zeros(1))
    assert "holds files of the other kind only (data1.npy), no velocity file" in message()
    assert len(data_files(tmp_path, "seismic")) == 1


def test_more_maps_than_gathers_is_no_fault(data: Path, write_velocity: Writer) -> None:
    for number in (2, 3, 34):
        write_velocity(data / f"velocity_map/vel2_1_{number}.npy", 4, first=10 * number)
    split = open_pairs(config_of(data / "velocity_map", data / "seismic_data").data, 0)
    assert (len(split.train), len(split.val)) == (4 + 8, 2 + 4)
    pairs = split.pairs()
    assert (len(pairs.train), len(pairs.val)) == (4, 2)
    assert pairs.train.seismic_batch(range(4)).shape == (4, *SHAPE)
    report = validate(config_of(data / "velocity_map", data / "seismic_data").data, 0)
    assert report.without_seismic == 12
    assert "12 maps without gathers" in report.summary()


def test_gathers_of_the_first_maps_of_a_file(tmp_path: Path, write_velocity: Writer, write_seismic: Writer) -> None:
    """Two single files, as others keep them: 12 maps, and gathers of the first 5."""
    write_velocity(tmp_path / "maps.npy", 12)
    write_seismic(tmp_path / "gathers.npy", 5)
    data = config_of(tmp_path / "maps.npy", tmp_path / "gathers.npy").data
    split = open_pairs(data, 0)
    assert len(split.train) + len(split.val) == 12
    pairs = split.pairs()
    assert len(pairs.train) + len(pairs.val) == 5
    for side in (pairs.train, pairs.val):
        rows = range(len(side))
        tops = side.velocity_batch(rows)[:, 0, 0, 0] - 2000
        assert torch.equal(side.seismic_batch(rows)[:, 1, 1, 1], tops), "each map with its own gathers"
    report = validate(data, 0)
    assert report.without_seismic == 7
    assert any("gathers.npy has 5 samples" in warning and "its first maps" in warning for warning in report.warnings)

    kept = split_from_dict(split_to_dict(split, tmp_path), tmp_path, need_seismic=True, seismic_shape=SHAPE)
    assert np.array_equal(kept.pairs().train.members, pairs.train.members)
    maps_alone = split_from_dict(split_to_dict(split, tmp_path), tmp_path, need_seismic=False, seismic_shape=SHAPE)
    assert np.array_equal(maps_alone.pairs().train.members, pairs.train.members)

    write_seismic(tmp_path / "gathers.npy", 13)
    with pytest.raises(DataError, match=r"gathers.npy has 13 samples, but .*maps.npy has 12") as caught:
        open_pairs(data, 0)
    assert "ubq data forward" not in caught.value.fix, "which wants OpenFWI's names"


def test_more_gathers_than_maps_are_set_aside_and_modelled_by_the_command_advised(
    tmp_path: Path, write_velocity: Writer, write_seismic: Writer
) -> None:
    pytest.importorskip("deepwave")
    folder = tmp_path / "two words"
    write_velocity(folder / "model1.npy", 2)
    write_seismic(folder / "data1.npy", 3)
    with pytest.raises(DataError, match=r"data1\.npy has 3 samples") as caught:
        open_pairs(config_of(folder).data, 0)
    pasted = caught.value.fix[caught.value.fix.index("mv ") :]
    shadow = f'ubq() {{ {shlex.quote(sys.executable)} -m ubq "$@"; }}; '
    subprocess.run(["bash", "-c", shadow + pasted], check=True)
    assert open_array(folder / "data1.npy", "seismic").samples == 2
    assert sorted(path.name for path in folder.glob("data1*")) == ["data1.npy", "data1.npy.aside"]
    assert len(open_pairs(config_of(folder).data, 0).pairs().train) == 1


def test_too_few_gathers_for_both_sides_are_modelled_elsewhere_by_the_command_advised(
    tmp_path: Path, write_velocity: Writer, write_seismic: Writer
) -> None:
    pytest.importorskip("deepwave")
    velocity, seismic = tmp_path / "two words/v", tmp_path / "two words/s"
    write_velocity(velocity / "model1.npy", 2)
    write_seismic(seismic / "data1.npy", 1)
    (tmp_path / "two words/s-modelled").mkdir()
    with pytest.raises(DataError, match="map has shot gathers") as caught:
        open_pairs(config_of(velocity, seismic).data, 0).pairs()
    pasted, _then, option = caught.value.fix.partition(": ")[2].partition("; then give ")
    assert main(shlex.split(pasted)[1:]) == 0
    name, folder = shlex.split(option)
    assert name == "--train-data"
    pairs = open_pairs(config_of(velocity, folder).data, 0).pairs()
    assert (len(pairs.train), len(pairs.val)) == (1, 1)
    assert open_array(seismic / "data1.npy", "seismic").samples == 1


def test_both_sides_get_gathers_where_the_official_numbers_would_leave_one_without(
    tmp_path: Path, write_velocity: Writer, write_seismic: Writer
) -> None:
    for number in (0, 1, 33):
        write_velocity(tmp_path / f"v/vel2_1_{number}.npy", 10, first=10 * number)
    write_seismic(tmp_path / "s/seis2_1_0.npy", 10)
    data = config_of(tmp_path / "v", tmp_path / "s").data
    split = open_pairs(data, 0)
    assert len(split.train) + len(split.val) == 30
    assert len(split.pairs().train) == len(split.pairs().val) == 5
    assert "without gathers" in split.rule
    again = open_pairs(data, 0, need_seismic=False)
    assert np.array_equal(again.val.members, split.val.members)
    (tmp_path / "s/seis2_1_0.npy").unlink()
    with pytest.raises(DataError, match="is empty"):
        open_pairs(data, 0)
    alone = open_pairs(config_of(tmp_path / "v").data.model_copy(update={"train_seismic": ""}), 0)
    assert len(alone.train) == 20
    with pytest.raises(DataError, match=r"no training map has shot gathers.*ubq data forward"):
        alone.pairs()


def test_a_split_is_read_back_as_it_was_written(data: Path) -> None:
    config = config_of(data / "velocity_map", data / "seismic_data")
    split = open_pairs(config.data, 3)
    written = json.loads(json.dumps(split_to_dict(split, data / "run")))
    back = split_from_dict(written, data / "run", True, SHAPE)
    for ours, theirs in ((back.train, split.train), (back.val, split.val)):
        assert np.array_equal(ours.members, theirs.members)
        assert np.array_equal(ours.seismic_batch([0]), theirs.seismic_batch([0]))
    assert back.rule == split.rule
    assert back.sha256 == SampleIds.from_dict(written).sha256
    assert split_to_dict(split, data)["files"][0]["velocity"]["path"] == "velocity_map/vel2_1_0.npy"

    np.save(data / "velocity_map/vel2_1_1.npy", np.full((2, 1, 70, 70), 2500, np.float32))
    with pytest.raises(DataError, match=r"vel2_1_1.npy is not the file that the stage prepare read.*--force prepare"):
        split_from_dict(written, data / "run", False, SHAPE)
    assert split_to_dict(open_pairs(config.data, 3), data)["sha256"] != back.sha256


def test_a_random_split_and_a_validation_folder_are_written_too(data: Path, write_velocity: Writer) -> None:
    single = DataConfig(train_velocity=str(write_velocity(data / "maps.npy", 40)), val_fraction=0.2, min_val_samples=4)
    folder = DataConfig(train_velocity=str(data / "maps.npy"), val_velocity=str(data / "velocity_map"))
    for config in (single, folder):
        split = open_pairs(config, 1)
        back = split_from_dict(split_to_dict(split, data), data, False, SHAPE)
        for ours, theirs in ((back.train, split.train), (back.val, split.val)):
            assert np.array_equal(ours.velocity_batch(range(len(ours))), theirs.velocity_batch(range(len(theirs))))


LAYOUTS = [
    ("CurveFault-A/seismic_data", "CurveFault-A/velocity_map", "seis2_1_0.npy", "vel2_1_0.npy", "curvefault-a"),
    ("data/CurveFault_A", "data/CurveFault_A", "seis2_1_0.npy", "vel2_1_0.npy", "curvefault-a"),
    ("train_samples/FlatVel_A/data", "train_samples/FlatVel_A/model", "data1.npy", "model1.npy", "flatvel-a"),
    ("OpenFWI/style-b/data", "OpenFWI/style-b/model", "data1.npy", "model1.npy", "style-b"),
]


@pytest.mark.parametrize(("seismic", "velocity", "gathers", "maps", "family"), LAYOUTS)
def test_a_data_set_is_found_where_it_usually_lies(
    seismic: str, velocity: str, gathers: str, maps: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in ((seismic, gathers), (velocity, maps)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).touch()
    assert find_data_set(family, tmp_path) == (tmp_path / seismic, tmp_path / velocity)  # type: ignore[arg-type]
    assert find_data_set("curvevel-b", tmp_path) is None
    monkeypatch.chdir(tmp_path)
    asked = Config.model_validate({"data": {"family": family, "synth_samples": 0}})
    found = with_data_found(asked).data
    assert (found.train_seismic, found.train_velocity) == (str(tmp_path / seismic), str(tmp_path / velocity))
    synthetic = Config.model_validate({"data": {"family": family, "synth_samples": 5}})
    assert with_data_found(synthetic) is synthetic


@pytest.mark.parametrize("there", [True, False], ids=["empty", "missing"])
def test_maps_of_a_data_set_without_gathers_are_found_and_the_command_makes_them(
    there: bool, tmp_path: Path, write_velocity: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepwave")
    monkeypatch.chdir(tmp_path)
    write_velocity(tmp_path / "CurveFault-A/velocity_map/vel2_1_0.npy", 1)
    if there:
        (tmp_path / "CurveFault-A/seismic_data").mkdir()
    asked = Config.model_validate({"data": {"family": "curvefault-a", "synth_samples": 0}})
    assert with_data_found(asked) is asked
    message, fix = no_data(asked)
    assert "CurveFault-A/velocity_map holds maps of curvefault-a, but CurveFault-A/seismic_data no gathers" in message
    words = shlex.split(fix.partition(": ")[2])
    assert words[0] == "ubq"
    assert main(words[1:]) == 0
    assert with_data_found(asked).data.train_seismic == str(tmp_path / "CurveFault-A/seismic_data")
