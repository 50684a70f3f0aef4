"""Files of another name or format do not stay in ``exported_models``: they would load, and be the old model."""

from __future__ import annotations

import json
from pathlib import Path

from ubq.config.schema import Config
from ubq.stages.export import Export
from ubq.stages.paths import RunPaths


def config(name: str, *formats: str) -> Config:
    return Config.model_validate({"export": {"name": name, "formats": ("torchscript", *formats)}}, strict=True)


def written(paths: RunPaths, config: Config) -> None:
    """What the stage leaves, without a model."""
    outputs = [Path(p) for p in Export().outputs(config, paths)]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    listed = [{"name": p.name} for p in outputs if p.parent == paths.exported and p.name != "manifest.json"]
    (paths.exported / "manifest.json").write_text(json.dumps({"format_version": 1, "files": listed}))
    (paths.exported / "notes.pt").write_text("the user's own")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_dropped_format(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    written(paths, config("pi", "onnx"))
    assert "pi.onnx" in names(paths.exported)
    Export()._set_leftovers_aside(config("pi"), paths)
    assert names(paths.exported) == ["deployment_guide.md", "manifest.json", "notes.pt", "pi.pt", "pi_info.txt"]


def test_another_name(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    written(paths, config("old"))
    Export()._set_leftovers_aside(config("new"), paths)
    assert names(paths.exported) == ["deployment_guide.md", "manifest.json", "notes.pt"]
    assert names(paths.checkpoints("export") / "float") == []
    assert "exported_models-old.pt" in names(paths.checkpoints("export") / "superseded" / "files")


def test_a_manifest_that_cannot_be_read_takes_nothing_away(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    written(paths, config("old"))
    (paths.exported / "manifest.json").write_text('{"format_version": 1, "files": [{"name": "../../x"}, 3]}')
    Export()._set_leftovers_aside(config("new"), paths)
    assert "old.pt" in names(paths.exported)
