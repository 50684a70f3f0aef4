"""The whole pipeline in real processes, from an empty folder to a file that samples without ubq."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ubq.bench.subject import trained_model
from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
from ubq.quant.checkpoint import load_qat
from ubq.quant.phases import set_phase
from ubq.stages.paths import RunPaths
from ubq.training.latent_order import chain
from ubq.training.latents import load_latents
from ubq.upstream.names import upstream_names

pytestmark = pytest.mark.slow

MARK_FAILED = 5
"""The smoke preset runs everything and trains next to nothing: its marks fail, the pipeline may not."""

SAMPLE = """
import sys, torch
torch.backends.quantized.engine = "qnnpack"
model = torch.jit.load(sys.argv[1])
velocity, seismic = model(2)
assert "ubq" not in sys.modules
assert velocity.shape == (2, 1, 70, 70) and seismic.shape == (2, 5, 1000, 70)
assert torch.isfinite(velocity).all() and torch.isfinite(seismic).all()
assert not torch.equal(velocity[0], velocity[1])
"""


def ubq(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UBQ_")} | {"LANG": "C.UTF-8"}
    command = [sys.executable, "-m", "ubq", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run; the folder it was started in."""
    folder = tmp_path_factory.mktemp("smoke")
    done = ubq(folder, "run", "--preset", "smoke")
    assert done.returncode == MARK_FAILED, done.stderr
    return folder


def pairs_of(folder: Path) -> list[str]:
    """Options that use the pairs of the finished smoke run."""
    data = str(folder / "runs/smoke/data/synthetic")
    return ["--train-data", data, "--train-label", data]


def test_the_trained_decoders_hidden_channels_have_one_reach(smoke: Path) -> None:
    paths = RunPaths(smoke / "runs/smoke")
    latents = load_latents(paths.latents, torch.device("cpu")).train
    apart = {}
    quantised = load_qat(paths.checkpoints("qat-decoders") / "final_qat_decoders.pt").generator
    for name, model in {"float": trained_model(paths.root).model, "trained": quantised}.items():
        set_phase(model, "float")
        ratios: list[float] = []

        def see(_block: object, _inputs: object, output: torch.Tensor, ratios: list[float] = ratios) -> None:
            reach = output.amax(dim=(0, 2, 3))
            ratios.append(float(reach[reach > 0].median() / reach.max()))  # so short a training leaves some at zero

        for block in model.velocity_decoder.blocks:
            block.register_forward_hook(see)
        with torch.no_grad():
            model.eval().velocity_decoder(model.velocity_projector(latents[:64]))
        apart[name] = min(ratios)
    assert apart["trained"] > 0.8 > apart["float"]


def test_smoke_leaves_every_file_of_the_contract(smoke: Path) -> None:
    exported = smoke / "runs/smoke/exported_models"
    expected = {"smoke.pt", "smoke_info.txt", "deployment_guide.md", "manifest.json", "report.json", "samples.png"}
    assert expected <= {f.name for f in exported.iterdir()}
    checkpoints = smoke / "runs/smoke/checkpoints"
    for file in (
        "qat_decoders/final_qat_decoders.pt",
        "qat_decoders/quantization_analysis.txt",
        "qat_diffusion/final_qat_model.pt",
        "qat_diffusion/quantization_analysis.txt",
    ):
        assert (checkpoints / file).is_file(), file


def test_the_exported_file_samples_where_there_is_only_torch(smoke: Path, tmp_path: Path) -> None:
    file = tmp_path / "copied.pt"
    file.write_bytes((smoke / "runs/smoke/exported_models/smoke.pt").read_bytes())
    subprocess.run([sys.executable, "-I", "-c", SAMPLE, str(file)], cwd=tmp_path, check=True, timeout=300)


def test_the_report_holds_every_mark_with_what_was_measured(smoke: Path) -> None:
    report = json.loads((smoke / "runs/smoke/exported_models/report.json").read_text())
    marks = {m["id"]: m for m in report["marks"]}
    assert set(marks) == {
        "quantised_modules",
        "conv1d_left",
        "loss_falling",
        "file_size",
        "generation",
        "int8_fidelity",
        "diversity",
        "beats_noise",
        "physics",
        "lattice",
        "variogram",
    }
    assert marks["generation"]["passed"]
    assert marks["conv1d_left"]["value"] == 0
    assert not report["passed"], "eight training steps do not make a generator"


def test_the_latents_channels_are_left_in_order(smoke: Path) -> None:
    latents = torch.load(smoke / "runs/smoke/checkpoints/latents/latents.pt", weights_only=True)
    order, signs = chain(latents["train"])
    assert torch.equal(order, torch.arange(len(order)))
    assert len(signs.unique()) == 1


def test_the_same_command_again_runs_nothing(smoke: Path) -> None:
    again = ubq(smoke, "run", "--preset", "smoke", "--dry-run")
    assert again.returncode == 0, again.stderr
    assert "run (" not in again.stdout + again.stderr


def test_equal_weights_of_the_time_steps_change_the_float_unets_loss_and_no_other(smoke: Path) -> None:
    options = [*pairs_of(smoke), "--run", "equal", "--set", "train.diffusion.loss_weight=uniform"]
    done = ubq(smoke, "run", "--preset", "smoke", *options, "--until", "train-seismic")
    assert done.returncode == 0, done.stderr
    first: dict[str, list[float]] = {}
    for run in ("smoke", "equal"):
        rows = [json.loads(line) for line in (smoke / f"runs/{run}/metrics.jsonl").read_text().splitlines()]
        for row in rows:
            if "loss" in row and row["step"] == 1 and not row["stage"].startswith("qat-"):
                first.setdefault(row["stage"], []).append(row["loss"])
    weighted, equal = first.pop("train-diffusion")
    # an untrained U-Net errs about alike at every step, and the weights are below 1
    assert equal > 1.05 * weighted
    assert all(a == b for a, b in first.values())


def test_post_training_quantisation_needs_no_step(smoke: Path) -> None:
    options = [*pairs_of(smoke), "--set", "qat.epochs=0", "--run", "ptq"]
    done = ubq(smoke, "run", "--preset", "smoke", *options)
    assert done.returncode == MARK_FAILED, done.stderr
    rows = [json.loads(line) for line in (smoke / "runs/ptq/metrics.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row["stage"].startswith("qat-") and "loss" in row]
    assert json.loads((smoke / "runs/ptq/exported_models/manifest.json").read_text())["weights_sha256"]


def test_a_run_that_diverges_fails_in_one_line(smoke: Path) -> None:
    options = [*pairs_of(smoke), "--run", "diverging", "--until", "train-diffusion"]
    done = ubq(smoke, "run", "--preset", "smoke", *options, "--set", "train.diffusion.lr=1e30")
    assert done.returncode == 1
    assert "train-diffusion diverged" in done.stderr
    assert "Traceback" not in done.stderr


def fork_container() -> dict[str, object]:
    """A small model with random weights, as the fork's diffusion training saves it."""
    torch.manual_seed(0)
    sizes = ModelSizes(
        variant="fork",
        encoder_dim=16,
        dim_mults=(1, 2, 2, 2),
        diffusion_steps=16,
        encoder_dims=(4, 8, 8, 16),
        velocity_latent=24,
        velocity_dims=(4, 6, 8, 10, 12),
        seismic_latent=16,
    )
    model = UBDiff(sizes)
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
    tensors = model.state_dict() | {f"diffusion.{n}": t for n, t in diffusion.state_dict().items()}
    names = upstream_names(sizes.variant, len(sizes.dim_mults), sizes.seismic_depth)
    state = {upstream: tensors[ours] for ours, all_names in names.items() for upstream in all_names}
    averaged = {n.removeprefix("unet."): t for n, t in state.items() if n.startswith("unet.")}
    return {
        "step": 4,
        "model": state,
        "ema": {"ema_model": averaged, "step": torch.tensor(4), "initted": torch.tensor(True)},
    }


def test_a_fork_checkpoint_becomes_a_sampling_file(smoke: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model-4.pt"
    torch.save(fork_container(), checkpoint)
    options = [*pairs_of(smoke), "--pretrained-path", str(checkpoint), "--run", "fork"]
    done = ubq(smoke, "run", "--preset", "smoke", *options)
    assert done.returncode == MARK_FAILED, done.stderr
    facts = json.loads((smoke / "runs/fork/checkpoints/import/import.json").read_text())
    assert facts["variant"] == "fork"
    assert facts["weights"] == "ema"
    assert facts["normalization"]["velocity_max"] == 5000, "a fork checkpoint keeps the fork's ranges"
    manifest = json.loads((smoke / "runs/fork/exported_models/manifest.json").read_text())
    assert manifest["model"]["variant"] == "fork"
    assert manifest["normalization"] == facts["normalization"]
    report = json.loads((smoke / "runs/fork/exported_models/report.json").read_text())
    assert next(m for m in report["marks"] if m["id"] == "conv1d_left")["passed"]
    file = smoke / "runs/fork/exported_models" / f"{manifest['name']}.pt"
    subprocess.run([sys.executable, "-I", "-c", SAMPLE, str(file)], cwd=tmp_path, check=True, timeout=300)
