"""The pass over every sample before training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ubq.config.schema import DataConfig
from ubq.data.validate import inspect_folder, validate
from ubq.errors import DataError

Writer = Callable[..., Path]


@pytest.fixture
def pairs(tmp_path: Path, write_velocity: Writer, write_seismic: Writer) -> Path:
    folder = tmp_path / "CurveFault_A"
    for number in (0, 32):
        write_velocity(folder / f"vel2_1_{number}.npy", 20)
        write_seismic(folder / f"seis2_1_{number}.npy", 20)
    return folder


def config(folder: Path, **keys: object) -> DataConfig:
    return DataConfig(train_velocity=str(folder), train_seismic=str(folder), **keys)  # type: ignore[arg-type]


def test_report_says_what_is_there(pairs: Path) -> None:
    shown: list[tuple[int, int]] = []
    report = validate(config(pairs), seed=0, progress=lambda done, total: shown.append((done, total)))
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["samples"] == 40
    assert found["families"] == ["curvefault-a"]
    assert found["velocity_shape"] == [1, 70, 70]
    assert found["seismic_shape"] == [5, 1000, 70]
    assert found["velocity_range"] == [2000, 3000]
    assert found["seismic_range"] == [-20, 40]
    assert (found["train_samples"], found["val_samples"]) == (20, 20)
    assert found["split_rule"] == "official file numbers of curvefault-a"
    assert found["normalization"]["amplitude_max"] == 52.32
    assert [(f["kind"], f["samples"], f["dtype"]) for f in found["files"]] == [
        ("velocity", 20, "float32"),
        ("velocity", 20, "float32"),
        ("seismic", 20, "float32"),
        ("seismic", 20, "float32"),
    ]
    assert found["warnings"] == []
    assert "40 pairs in 4 files" in report.summary()
    assert shown[-1] == (80, 80)
    assert [done for done, _total in shown] == sorted({done for done, _total in shown})


def test_a_folder_of_maps_alone_is_fine_to_inspect(pairs: Path) -> None:
    for path in pairs.glob("seis*"):
        path.unlink()
    report = inspect_folder(pairs)
    assert report.seismic_shape is None
    assert (report.train_samples, report.val_samples) == (20, 20)
    assert "40 velocity maps" in report.summary()
    with pytest.raises(DataError, match="seismic"):
        validate(config(pairs), seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["vel2_1_32.npy", "seis2_1_32.npy"])
def test_a_bad_value_anywhere_names_file_and_sample(pairs: Path, name: str, value: float) -> None:
    array = np.load(pairs / name)
    array[17, 0, 33, 44] = value
    np.save(pairs / name, array)
    with pytest.raises(DataError, match=rf"{name}, sample 17: holds NaN or infinite values.*remove the sample"):
        validate(config(pairs), seed=0)
    with pytest.raises(DataError, match=rf"{name}, sample 17"):
        inspect_folder(pairs)


@pytest.mark.parametrize(
    ("scale", "shift", "fix"),
    [(1e-3, 0.0, "km/s"), (1 / 3000, -1.0, "normalised already"), (100.0, 0.0, "in m/s"), (-1.0, 0.0, "in m/s")],
)
def test_velocities_in_other_units_are_recognised(pairs: Path, scale: float, shift: float, fix: str) -> None:
    maps = np.load(pairs / "vel2_1_0.npy")
    np.save(pairs / "vel2_1_0.npy", (maps * scale + shift).astype(np.float32))
    with pytest.raises(DataError, match=rf"vel2_1_0.npy, sample 0: velocities .* not m/s of rock.*{fix}"):
        validate(config(pairs), seed=0)


def test_what_is_odd_but_usable_is_a_warning(pairs: Path) -> None:
    def warnings(**keys: object) -> str:
        return "\n".join(validate(config(pairs, **keys), seed=0).warnings)

    assert "outside the normalisation range 2500 to 4500" in warnings(normalization=(-30.0, 60.0, 2500.0, 4500.0))
    assert "amplitudes -20.00 to 40.00 lie outside" in warnings(normalization=(0.0, 12.0, 1500.0, 4500.0))
    assert "scaled already" in warnings(normalization=(-3000.0, 6000.0, 1500.0, 4500.0))
    assert "data.family is flatvel-a, but the file names are those of curvefault-a" in warnings(family="flatvel-a")

    gathers = np.load(pairs / "seis2_1_0.npy")
    gathers[3] = 0
    np.save(pairs / "seis2_1_0.npy", gathers)
    np.save(pairs / "vel2_1_0.npy", np.load(pairs / "vel2_1_0.npy").astype(np.float64))
    text = warnings()
    assert "seis2_1_0.npy: gathers that are zero everywhere, the first is sample 3" in text
    assert "vel2_1_0.npy is float64 and is converted to float32" in text


def test_file_numbers_that_two_splits_explain_are_not_guessed_from(tmp_path: Path, write_velocity: Writer) -> None:
    write_velocity(tmp_path / "model50.npy")
    report = inspect_folder(tmp_path)
    assert {"flatvel-a", "style-b"} < set(report.families)
    assert report.train_samples is None
    assert "training" not in report.summary()


def test_real_maps_are_recognised(shared: Path) -> None:
    for family in ("flatfault-a", "curvevel-a"):
        report = inspect_folder(shared / "openfwi" / family)
        assert report.families == (family,)
        assert report.samples == 500
        assert report.train_samples is None, "one file has no official held-out side"
        assert not report.warnings
