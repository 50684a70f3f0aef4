"""Which files count as the input of prepare."""

from __future__ import annotations

from pathlib import Path

import pytest

from ubq.config.schema import Config
from ubq.stages.prepare import Prepare


def inputs(place: Path | str) -> list[str]:
    config = Config.model_validate({"data": {"train_velocity": str(place)}})
    return [str(p) for p in Prepare().inputs(config)]


def test_folders_patterns_files_and_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    for name in ("model/model1.npy", "model/model2.npy", "vel2_1_0.npy", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    maps = [str(tmp_path / n) for n in ("model/model1.npy", "model/model2.npy")]
    assert inputs(tmp_path / "model") == maps
    assert inputs(tmp_path) == [str(tmp_path / "vel2_1_0.npy")], "as the loader: its own files before its subfolders'"
    assert inputs(tmp_path / "model" / "model[12].npy") == maps
    assert inputs(tmp_path / "vel2_1_0.npy") == [str(tmp_path / "vel2_1_0.npy")]
    assert inputs(tmp_path / "absent") == [str(tmp_path / "absent")]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert inputs("~/model") == maps
    assert Prepare().inputs(Config()) == []
