"""The files beside an exported model."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_generator import SIZES, tiny_generator, tiny_recipe

from ubq.errors import UsageError
from ubq.export.files import ExportedFiles, export_generator, without_quantisation
from ubq.export.guide import guide_text
from ubq.export.manifest import damaged_files, read_manifest
from ubq.export.readback.digest import digest
from ubq.export.runtimes import TORCHSCRIPT
from ubq.metrics import relative_l2
from ubq.quant.phases import phase_set, quant_layers


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedFiles:
    recipe = tiny_recipe()
    return export_generator(tiny_generator(recipe), recipe, tmp_path_factory.mktemp("out"), "tiny", family="style-a")


def test_the_manifest_lists_every_file_to_the_byte(exported: ExportedFiles) -> None:
    manifest = json.loads(exported.manifest.read_text())
    assert manifest["format_version"] == 1
    assert manifest["name"] == "tiny"
    assert [f["name"] for f in manifest["files"]] == ["tiny.pt", "tiny_info.txt", "deployment_guide.md"]
    for entry in manifest["files"]:
        content = (exported.manifest.parent / entry["name"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest["weights_sha256"] == digest(exported.model)
    assert manifest["solver"] == "dpmpp2m"
    assert manifest["steps"] == 4
    assert manifest["model"] == SIZES.to_dict()
    assert manifest["normalization"]["velocity_max"] == 4500


def test_a_changed_or_missing_file_is_named(exported: ExportedFiles, tmp_path: Path) -> None:
    for file in exported.manifest.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert damaged_files(tmp_path / "manifest.json") == []
    content = bytearray((tmp_path / "tiny.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "tiny.pt").write_bytes(content)
    (tmp_path / "tiny_info.txt").unlink()
    assert damaged_files(tmp_path / "manifest.json") == ["tiny.pt", "tiny_info.txt"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format_version": 2, "files": []}', '{"format_version": 1, "files": [{}]}']
)
def test_a_damaged_manifest_gives_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match=r"manifest\.json"):
        read_manifest(tmp_path / "manifest.json")


def test_a_format_that_is_dropped_leaves_no_file_that_loads(tmp_path: Path) -> None:
    for name in ("tiny.onnx", "tiny.decoders.onnx", "tiny.pte", "other.onnx"):
        (tmp_path / name).write_text("old")
    recipe = tiny_recipe()
    export_generator(tiny_generator(recipe), recipe, tmp_path, "tiny", family="style-a")
    assert [p.name for p in tmp_path.glob("*.onnx")] == ["other.onnx"]
    assert not list(tmp_path.glob("*.pte"))


def test_the_float_reference_says_what_it_is_and_agrees_with_the_unquantised_model(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    generator = tiny_generator(recipe)
    written = export_generator(generator, recipe, tmp_path, "tiny_float", family="style-a", quantise=False)
    assert written.weights_sha256 is None
    assert "float" in (tmp_path / "deployment_guide.md").read_text()
    loaded = torch.jit.load(str(written.model))
    assert not [m for m in loaded.modules() if hasattr(m, "packed")]
    x = torch.randn(3, 1, SIZES.encoder_dim)
    noise = torch.randn(3, 3, 1, SIZES.encoder_dim)
    with torch.no_grad(), phase_set(generator, "float"):
        wanted = generator.decode(generator.sample(x, noise, 4))
        found = loaded.decode(loaded.sample(x, noise, 4))
    for a, b in zip(found, wanted, strict=True):
        assert relative_l2(a, b) < 1e-5
    assert not quant_layers(without_quantisation(generator))
    assert quant_layers(generator)  # the original keeps its layers


def test_the_script_of_the_guide_runs_as_it_stands(exported: ExportedFiles) -> None:
    """Taken from the guide as a reader would, and run where only torch is imported."""
    folder = exported.model.parent
    guide = (folder / "deployment_guide.md").read_text()
    script = re.search(r"```python\n(.*?)```", guide, re.DOTALL)
    assert script
    (folder / "generate.py").write_text(script[1])
    done = subprocess.run([sys.executable, "-I", "generate.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pair = torch.load(folder / "pair.pt")
    assert pair["velocity"].shape == (1, 1, 70, 70)
    assert pair["seismic"].shape == (1, 5, 1000, 70)
    (folder / "pair.pt").unlink()


def test_the_guide_has_what_goes_wrong_on_a_pi(exported: ExportedFiles) -> None:
    guide = (exported.model.parent / "deployment_guide.md").read_text()
    engine, load = guide.index('engine = "qnnpack"'), guide.index("torch.jit.load(")
    assert engine < load
    assert "torch==2.9.1" in guide
    assert "Illegal instruction" in guide
    assert "scp tiny.pt manifest.json" in guide
    assert "2, 4 steps" in guide
    info = (exported.model.parent / "tiny_info.txt").read_text()
    assert digest(exported.model) in info
    assert "int8" in info


def test_memory_grows_with_the_file_and_boards_run_out() -> None:
    assert TORCHSCRIPT.memory_mb(150_000_000) < TORCHSCRIPT.memory_mb(763_000_000)
    facts = _facts()
    assert "1 GB" in guide_text(facts, 100_000_000)
    assert "8 GB" in guide_text(facts, 1_600_000_000)
    assert "No Raspberry Pi" in guide_text(facts, 20_000_000_000)


def _facts():
    from ubq.export.files import facts_of

    return facts_of(tiny_recipe(), "x", "style-a", True)


def test_the_file_carries_its_own_facts(exported: ExportedFiles) -> None:
    extra = {"ubq.json": ""}
    torch.jit.load(str(exported.model), _extra_files=extra)
    assert json.loads(extra["ubq.json"]) == json.loads(json.dumps(exported.facts.to_json()))
