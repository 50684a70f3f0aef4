"""The bundle: what is in it, that it is the same every time, and that its script needs ubq for nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_generator import tiny_generator, tiny_recipe

from ubq.cli import main
from ubq.config.extras import missing_modules
from ubq.config.schema import QuantConfig
from ubq.errors import UsageError
from ubq.export.bundle import generate
from ubq.export.bundle.folder import Bundle, make_bundle, open_bundle, pack
from ubq.export.files import export_generator
from ubq.export.manifest import damaged_files
from ubq.export.runtimes import ONNX, RUNTIMES, TORCHSCRIPT, runtimes_of

ONNX_HERE = not missing_modules("onnx")
SHARED = {"generate.py", "wave_equation.py", "noise.py", "processor.py"} | {
    "deployment_guide.md", "tiny_info.txt", "manifest.json",
}  # fmt: skip
OF_RUNTIME = {
    "torchscript": {"tiny.pt", "requirements-torchscript.txt"},
    "onnx": {"tiny.onnx", "tiny.decoders.onnx", "requirements-onnx.txt"},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # generate.py runs under the Pi's engine; over a whole chain of random weights engines drift apart by per cents
    recipe = replace(tiny_recipe(), quant=QuantConfig(backend="qnnpack"))
    formats = ("torchscript", "onnx") if ONNX_HERE else ("torchscript",)
    folder = tmp_path_factory.mktemp("run") / "exported_models"
    export_generator(tiny_generator(recipe), recipe, folder, "tiny", family="style-a", formats=formats)
    return folder


@pytest.fixture(scope="module")
def bundle(exported: Path) -> Bundle:
    return make_bundle(exported)


def test_it_holds_the_files_and_its_manifest_lists_each_to_the_byte(bundle: Bundle) -> None:
    wanted = SHARED.union(*(OF_RUNTIME[r.name] for r in bundle.runtimes))
    assert {p.name for p in bundle.folder.iterdir()} == wanted
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    assert {f["name"] for f in manifest["files"]} == wanted - {"manifest.json"}
    for entry in manifest["files"]:
        content = (bundle.folder / entry["name"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert damaged_files(bundle.folder / "manifest.json") == []
    assert [r.name for r in open_bundle(bundle.folder).runtimes] == [r.name for r in bundle.runtimes]


def test_the_archive_is_the_same_every_time_and_holds_the_folder(exported: Path, tmp_path: Path) -> None:
    first, second = pack(make_bundle(exported, tmp_path / "a")), pack(make_bundle(exported, tmp_path / "b"))
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        names = archive.getnames()
        assert names == sorted(names)
        assert {entry.mtime for entry in archive} == {0}
        archive.extractall(tmp_path / "out", filter="data")
    assert damaged_files(tmp_path / "out" / "tiny-bundle" / "manifest.json") == []


def test_a_runtimes_files_are_its_own_and_the_shared_ones(bundle: Bundle) -> None:
    for runtime in bundle.runtimes:
        names = bundle.files_for(runtime)
        assert set(names) == SHARED | OF_RUNTIME[runtime.name]
        assert names[-1] == "manifest.json"


@pytest.mark.parametrize(("flags", "engine"), [("avx2 avx512_vnni", "x86"), ("avx2", "qnnpack")])
def test_the_script_passes_over_an_engine_that_clips(
    bundle: Bundle, flags: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    before = torch.backends.quantized.engine
    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch has no engine x86")
    folder = shutil.copytree(bundle.folder, tmp_path / "bundle")
    (tmp_path / "cpuinfo").write_text(f"flags: {flags}\n")
    processor = folder / "processor.py"
    processor.write_text(processor.read_text().replace("/proc/cpuinfo", str(tmp_path / "cpuinfo")))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(generate, "FOLDER", folder)
    monkeypatch.setattr(torch.backends.quantized, "engine", before)  # put back
    monkeypatch.setattr(torch, "set_grad_enabled", lambda _enabled: None)
    generate.TorchScript(folder / "tiny.pt", 0, "x86")
    assert torch.backends.quantized.engine == engine


def generated(bundle: Bundle, runtime: str, out: Path, *options: str) -> tuple[dict, np.ndarray, np.ndarray]:
    script = [sys.executable, "-I", "generate.py", "--runtime", runtime, "--out", str(out), "--json", *options]
    done = subprocess.run(script, cwd=bundle.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), np.load(out / "velocity.npy"), np.load(out / "seismic.npy")


@pytest.mark.parametrize(
    "runtime",
    ["torchscript", pytest.param("onnx", marks=pytest.mark.skipif(not ONNX_HERE, reason="needs the onnx extra"))],
)
def test_the_script_draws_the_pairs_that_ubq_draws(bundle: Bundle, runtime: str, tmp_path: Path) -> None:
    import torch

    from ubq.runtime import load

    told, velocity, seismic = generated(bundle, runtime, tmp_path / "a", "--count", "2", "--seed", "5")
    assert velocity.shape == (2, 1, 70, 70)
    assert seismic.shape == (2, 5, 1000, 70)
    assert told["count"] == 2
    assert told["seconds_per_pair"] > 0
    assert (tmp_path / "a" / "pairs.png").read_bytes().startswith(b"\x89PNG")
    before = torch.backends.quantized.engine
    try:
        own = load(bundle.folder / f"tiny{RUNTIMES[runtime].suffixes[0]}").sample(2, seed=5)
    finally:
        torch.backends.quantized.engine = before
    for found, wanted in zip((velocity, seismic), own, strict=True):
        assert np.linalg.norm(found - wanted) <= 1e-3 * np.linalg.norm(wanted)
    _told, one, _seismic = generated(bundle, runtime, tmp_path / "b", "--seed", "5")
    np.testing.assert_array_equal(one[0], velocity[0])
    assert json.loads((tmp_path / "a" / "pairs.json").read_text()) == told
    assert (told["gathers"], told["acquisition"]["samples"]) == ("wave", 1000)
    told, other, guess = generated(bundle, runtime, tmp_path / "c", "--seed", "5", "--gathers", "decoder")
    np.testing.assert_array_equal(other[0], velocity[0])
    assert np.linalg.norm(guess[0] - seismic[0]) > 0.1 * np.linalg.norm(seismic[0])
    assert (told["gathers"], told["acquisition"]) == ("decoder", None)
    options = ("--seed", "6", "--steps", "2", "--gathers", "decoder")
    _told, other, _seismic = generated(bundle, runtime, tmp_path / "d", *options)
    assert not np.array_equal(other[0], velocity[0])


def said(bundle: Bundle, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(bundle.folder / "generate.py"), *options], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_script_says_what_is_missing_and_what_fixes_it(bundle: Bundle, exported: Path, tmp_path: Path) -> None:
    assert "-m pip install -r" in said(bundle)  # -S: nothing is installed
    assert "does not offer 99 steps" in said(bundle, "--steps", "99")
    assert "at least 1" in said(bundle, "--count", "0")
    broken = make_bundle(exported, tmp_path)
    (broken.folder / "tiny.pte").touch()
    assert "-m pip install --no-deps -r" in said(broken, "--runtime", "executorch")
    model = broken.folder / "tiny.pt"
    model.unlink()
    model.write_bytes(b"half")
    assert "tiny.pt is not whole" in said(broken)
    with pytest.raises(UsageError, match=r"tiny\.pt"):
        open_bundle(broken.folder)


def test_the_guide_names_this_model_its_files_and_exact_versions(bundle: Bundle) -> None:
    guide = (bundle.folder / "deployment_guide.md").read_text()
    for runtime in bundle.runtimes:
        assert f"pip install {runtime.pip_arguments}" in guide
        assert (bundle.folder / runtime.requirements).read_text().split() == list(runtime.installed)
        assert f"`tiny{runtime.suffixes[0]}`" in guide
    assert "generate.py --count 2" in guide
    assert guide.index('engine = "qnnpack"') < guide.index('torch.jit.load("tiny.pt")')
    assert "2, 4 steps" in guide


def test_the_command_bundles_what_a_folder_or_a_run_exported(exported: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(exported), "--bundle", "--out", str(tmp_path / "x"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["archive"]).is_file()
    assert set(told["runtimes"]) <= {"onnx", "torchscript"}
    assert (Path(told["folder"]) / "generate.py").is_file()
    assert main(["export", str(tmp_path), "--bundle"]) == 2
    run = tmp_path / "runs" / "mine"
    shutil.copytree(exported, run / "exported_models")
    (run / "state.json").touch()
    for words in (["mine"], []):  # without a name the newest run
        assert main(["export", *words, "--bundle", "--runs-dir", str(run.parent)]) == 0
        assert str(run / "exported_models" / "tiny-bundle.tar.gz") in capsys.readouterr().out
    (exported / "tiny_info.txt").rename(exported / "kept")
    try:
        assert main(["export", str(exported), "--bundle", "--out", str(tmp_path / "y")]) == 2
        assert "tiny_info.txt" in capsys.readouterr().err
    finally:
        (exported / "kept").rename(exported / "tiny_info.txt")


def test_a_runtime_needs_all_of_its_files() -> None:
    assert runtimes_of("a", ["a.pt", "a.onnx"]) == [TORCHSCRIPT]
    assert runtimes_of("a", ["a.pt", "a.onnx", "a.decoders.onnx"]) == [ONNX, TORCHSCRIPT]
    assert runtimes_of("a", ["b.pt"]) == []
