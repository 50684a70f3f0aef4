"""A preset of a real data set trains on that set, or asks; nothing is synthesised unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ubq.cli import main
from ubq.config.load import load_config, read_frozen
from ubq.config.presets import names
from ubq.errors import EXIT_PREFLIGHT


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("preset", names())
def test_only_the_synthetic_presets_synthesise(preset: str) -> None:
    config = load_config(preset, isolated=True, environ={}).config
    assert (config.data.synth_samples > 0) == (preset in ("demo", "smoke"))


def test_without_its_data_the_run_is_refused_with_the_ways_on_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--preset", "curvefault-a-edge"]) == EXIT_PREFLIGHT
    shown = capsys.readouterr().err
    assert "no data are given" in shown
    assert "./CurveFault-A/seismic_data" in shown
    for way in ("--train-data DIR --train-label DIR", "ubq wizard", "--set data.synth_samples="):
        assert way in shown
    assert not list(tmp_path.glob("runs/*"))


def test_a_damaged_data_set_is_refused_before_a_sample_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path)
    (tmp_path / "CurveFault-A/velocity_map/vel2_1_33.npy").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert main(["run", "--preset", "curvefault-a-edge"]) == EXIT_PREFLIGHT
    assert "vel2_1_33.npy is the pointer of a large file" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_data_in_the_seeds_layout_are_found_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path)
    for options in ([], ["--force", "prepare"]):  # the second start finds them named in the run
        assert main(["run", "--preset", "curvefault-a-edge", "--until", "prepare", *options]) == 0
    frozen = read_frozen(tmp_path / "runs/curvefault-a-edge/config.toml").data
    assert frozen.train_velocity == str(tmp_path / "CurveFault-A/velocity_map")
    assert frozen.train_seismic == str(tmp_path / "CurveFault-A/seismic_data")
    assert "synthesising" not in capsys.readouterr().out


def lay_out(folder: Path) -> None:
    for number in (0, 33):
        for kind, shape in (("velocity_map/vel", (1, 70, 70)), ("seismic_data/seis", (5, 1000, 70))):
            path = folder / f"CurveFault-A/{kind}2_1_{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.full((1, *shape), 2000 if kind.startswith("vel") else 20, np.float32))
