"""The bundle on an emulated Raspberry Pi 4 and 5, with the library versions that its guide names, against this machine.

Writes ``report.json`` into the cache folder: processor, versions, seconds under emulation, digests of what was drawn.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_pi import BOARDS, PI5, Board, EmulatedPi, Unavailable, cache_folder
from tiny_generator import tiny_generator, tiny_recipe

from ubq.config.extras import missing_modules
from ubq.data.synthetic import synthesise_velocity
from ubq.export.bundle.folder import Bundle, make_bundle
from ubq.export.files import export_generator
from ubq.export.lower.integer import integer_layers
from ubq.export.runtimes import EXECUTORCH, ONNX, PI_TORCH, TORCHSCRIPT, Runtime

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SCRIPT = Path(__file__).with_name("on_the_pi.py")
MOST_APART = 0.05
"""Relative L2 of a pair: the float operations between the integer layers round differently on another processor."""


@pytest.fixture(scope="module")
def pi() -> EmulatedPi:
    try:
        return EmulatedPi()
    except Unavailable as error:
        pytest.skip(f"no emulated Raspberry Pi: {error}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a model with every layer and small widths, and inputs.npz for its integer layers."""
    recipe = tiny_recipe()
    recipe = replace(recipe, quant=recipe.quant.model_copy(update={"backend": "qnnpack"}))  # a Pi's engine, here too
    generator = tiny_generator(recipe)
    formats = ["torchscript", *(extra for extra in ("onnx", "executorch") if not missing_modules(extra))]
    exported = tmp_path_factory.mktemp("exported")
    export_generator(generator, recipe, exported, "tiny", family="curvefault-a", formats=formats)
    made = make_bundle(exported)
    draw = np.random.default_rng(0)
    inputs = {}
    for name, layer in integer_layers(generator).items():
        if layer.kind == "conv2d":
            height = 1 if layer.weight.shape[2] == 1 and layer.padding[0] == 0 else 12
            shape: tuple[int, ...] = (2, layer.weight.shape[1] * layer.groups, height, 12)
        else:
            shape = (3, layer.weight.shape[1])
        if layer.input is None:
            inputs[name] = draw.standard_normal(shape, np.float32)
        else:
            levels = draw.integers(0, layer.input.levels + 1, shape)
            inputs[name] = ((levels - layer.input.zero_point) * np.float32(layer.input.scale)).astype(np.float32)
    np.savez(made.folder / "inputs.npz", **inputs)
    np.save(made.folder / "maps.npy", synthesise_velocity("curvefault-a", 1, seed=1))
    return made


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    yield found
    if found:
        (cache_folder() / "report.json").write_text(json.dumps(found, indent=2) + "\n")


@pytest.fixture(scope="module")
def here(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What this machine makes of the bundle, for each runtime."""
    made = {}
    for runtime in bundle.runtimes:
        made[runtime.name] = tmp_path_factory.mktemp(f"here-{runtime.name}")
        command = [sys.executable, str(SCRIPT), runtime.name, str(made[runtime.name])]
        subprocess.run(command, cwd=bundle.folder, check=True, capture_output=True)
    return made


def on_board(pi: EmulatedPi, board: Board, runtime: str, bundle: Bundle, out: Path) -> dict[str, Any]:
    executorch = runtime == EXECUTORCH.name
    done = pi.run(board, str(SCRIPT), runtime, str(out), cwd=bundle.folder, executorch=executorch)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((out / "result.json").read_text())
    assert result["machine"] == "aarch64"
    assert result["cpu_parts"] == [board.part]
    return result


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def pairs_agree(there: Path, here: Path) -> dict[str, float]:
    """Relative L2 of the pairs drawn there to those drawn here, and of the modelled gathers of the same maps."""
    apart = {}
    for kind in ("velocity", "seismic"):
        found, wanted = np.load(there / f"{kind}.npy"), np.load(here / f"{kind}.npy")
        assert np.isfinite(found).all()
        assert relative(wanted[0], wanted[1]) > MOST_APART or kind == "velocity"  # another pair would not agree
        apart[kind] = relative(found, wanted)
        assert apart[kind] <= MOST_APART
    apart["modelled"] = relative(np.load(there / "gathers.npy"), np.load(here / "gathers.npy"))
    assert apart["modelled"] <= 1e-4
    return apart


def executorch_site(pi: EmulatedPi) -> Path:
    try:
        return pi.executorch_site
    except Unavailable as error:
        pytest.skip(f"no ExecuTorch for the emulated Raspberry Pi: {error}")


def packages_are_there(runtime: Runtime, site: Path) -> None:
    for package in runtime.packages:
        name, version = package.split("==")
        assert list(site.glob(f"{name}-{version}*.dist-info")), package


def record(report: dict[str, Any], board: Board, out: Path, result: dict[str, Any], apart: dict[str, float]) -> None:
    digests = {f"{k}.npy": hashlib.sha256((out / f"{k}.npy").read_bytes()).hexdigest() for k in ("velocity", "seismic")}
    key = f"{board.cpu} {result['runtime']}"
    report[key] = {"board": board.name, "cpu": board.cpu, **result, "relative_l2_to_x86": apart, "sha256": digests}


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.cpu)
def test_torchscript_under_qnnpack_equals_x86_to_the_bit_layer_by_layer(
    board: Board, pi: EmulatedPi, bundle: Bundle, here: dict[str, Path], report: dict[str, Any], tmp_path: Path
) -> None:
    result = on_board(pi, board, "torchscript", bundle, tmp_path)
    assert result["versions"]["torch"].partition("+")[0] == PI_TORCH
    assert result["engine"] == "qnnpack"
    with np.load(tmp_path / "layers.npz") as found, np.load(here["torchscript"] / "layers.npz") as wanted:
        with np.load(bundle.folder / "inputs.npz") as inputs:
            assert sorted(found.files) == sorted(inputs.files)
        assert [name for name in found.files if not np.array_equal(found[name], wanted[name])] == []
        assert all(len(np.unique(wanted[name])) > 1 for name in wanted.files)
    record(report, board, tmp_path, result, pairs_agree(tmp_path, here["torchscript"]))


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.cpu)
def test_onnx_runtime_agrees_with_x86_without_torch(
    board: Board, pi: EmulatedPi, bundle: Bundle, here: dict[str, Path], report: dict[str, Any], tmp_path: Path
) -> None:
    if ONNX not in bundle.runtimes:
        pytest.skip("the onnx extra is not installed here: pip install 'ubq[onnx]'")
    result = on_board(pi, board, "onnx", bundle, tmp_path)
    wanted = dict(package.split("==") for package in ONNX.packages)
    assert result["versions"] == wanted
    record(report, board, tmp_path, result, pairs_agree(tmp_path, here["onnx"]))


def test_executorch_agrees_with_x86(
    pi: EmulatedPi, bundle: Bundle, here: dict[str, Path], report: dict[str, Any], tmp_path: Path
) -> None:
    """On a Pi 5 alone: int8 in ExecuTorch stops with an illegal instruction on the emulated Pi 4."""
    if EXECUTORCH not in bundle.runtimes:
        pytest.skip("the executorch extra is not installed here: pip install 'ubq[executorch]'")
    packages_are_there(EXECUTORCH, executorch_site(pi))
    result = on_board(pi, PI5, "executorch", bundle, tmp_path)
    wanted = dict(package.split("==") for package in EXECUTORCH.packages)
    assert {name: wanted[name] for name in result["versions"]} == result["versions"]
    record(report, PI5, tmp_path, result, pairs_agree(tmp_path, here["executorch"]))


@pytest.mark.parametrize("runtime", [TORCHSCRIPT, ONNX], ids=lambda r: r.name)
def test_the_wheels_are_those_of_the_requirements(runtime: Runtime, pi: EmulatedPi) -> None:
    packages_are_there(runtime, pi.site)


def test_this_machine_has_the_engine_that_it_is_compared_under() -> None:
    assert "qnnpack" in torch.backends.quantized.supported_engines
