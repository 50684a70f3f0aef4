"""Every stage on a CUDA device that is not there: tensors of two devices, operators without a kernel, wrong types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("check_gpu.py")
SHORT = (
    "model.dim_mults=[1,2]", "threads=1", "data.synth_samples=16", "train.autoencoder.steps=2", "train.seismic.steps=2",
    "train.diffusion.steps=2", "qat.steps=4", "qat.diffusion.distillation=0.5",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pretended(shared: Path) -> Path:
    """It changes PyTorch for the whole process, so that each test here starts one of its own."""
    folder = shared / "pretend_gpu"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


def test_every_stage_runs_and_keeps_its_device(pretended: Path, tmp_path: Path) -> None:
    changes = [part for value in SHORT for part in ("--set", value)]
    command = [
        sys.executable,
        str(pretended / "run.py"),
        "--",
        "run",
        "--preset",
        "smoke",
        "--device",
        "auto",
        *changes,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    state = json.loads((tmp_path / "runs" / "smoke" / "state.json").read_text())
    assert {s["name"]: s["state"] for s in state["stages"]} == {s["name"]: "completed" for s in state["stages"]}
    assert done.returncode == 5, done.stderr  # two steps a stage meet no mark
    assert 'device = "cuda"' in (tmp_path / "runs" / "smoke" / "config.toml").read_text()


@pytest.mark.parametrize("part", ["parity", "out_of_memory"])
def test_the_checks_for_a_real_gpu_pass_on_it(part: str, pretended: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKS), "--pretend", str(pretended), "--out", str(tmp_path), "--parts", part]
    done = subprocess.run([*command, "--limit", "1200"], capture_output=True, text=True, check=False)
    assert json.loads((tmp_path / "results.json").read_text())[part]["ok"], done.stdout[-3000:]


BENCH = """
import json, sys
import pretend_gpu
pretend_gpu.install()
from pathlib import Path
from ubq.bench.train import prepare, write_files
from ubq.bench.train_process import main
from ubq.config.load import load_config
root = Path("root").resolve()
write_files(root, 1, 8)
config = load_config("smoke", {"device": "cuda", "threads": 1}, isolated=True).config
for stage in ("train-autoencoder", "train-seismic", "train-diffusion", "qat-decoders", "qat-diffusion"):
    prepare(config, root / stage, root, 1, True)
    main(root / stage, stage, "prepare", 1)
    print(json.dumps([stage, *(main(root / stage, stage, way, 3) for way in ("plain", "ubq"))]))
"""


def test_bench_train_measures_both_ways_on_it(pretended: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(pretended)}
    command = [sys.executable, "-c", BENCH]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 5
    assert all(figures["steps_per_second"] > 0 for _stage, *both in rows for figures in both)
