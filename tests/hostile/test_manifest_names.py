"""A manifest that somebody else wrote: its names stay in the folder it lies in."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "deploy"))

from toy_bundle import exported_folder

from ubq.errors import UsageError
from ubq.export.bundle.folder import make_bundle


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", "a/b", "x" * 300, "\x1b[2J", 3, None])
@pytest.mark.parametrize("where", ["of a file", "of the model"])
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written(
    name: object, where: str, tmp_path: Path
) -> None:
    folder = exported_folder(tmp_path / "exported_models")
    secret = tmp_path / "secret"
    secret.write_text("mine")
    manifest = json.loads((folder / "manifest.json").read_text())
    if where == "of the model":
        manifest["name"] = name
    else:
        digest = hashlib.sha256(b"mine").hexdigest()
        manifest["files"].append({"name": name, "bytes": 4, "sha256": digest})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="not the manifest"):
        make_bundle(folder, tmp_path / "new")
    assert sorted(tmp_path.rglob("*")) == before
