"""``ubq bench``: what it prints and what it refuses. What it measures is in bench/README.md, never here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_generator import SIZES, tiny_backend, tiny_generator, tiny_recipe

from ubq.bench import kernel
from ubq.bench.subject import random_model
from ubq.bench.train import STAGES, measure_training
from ubq.bench.train_process import STAGES as PROCESS_STAGES
from ubq.cli import main
from ubq.export.files import export_generator
from ubq.model.parts import PARTS
from ubq.quant.checkpoint import save_qat
from ubq.quant.generator import Generator
from ubq.quant.ten_bit import COPIES
from ubq.training.files import save_tensors


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny_recipe()
    return export_generator(
        tiny_generator(recipe), recipe, tmp_path_factory.mktemp("e"), "tiny", family="style-a"
    ).model


def printed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert main(["bench", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_sample_prints_what_the_contract_names(file: Path, capsys) -> None:
    found = printed("sample", str(file), "--rounds", "1", capsys=capsys)
    assert found["ratio"] == pytest.approx(found["float_seconds"] / found["int8_seconds"])
    assert (found["steps"], found["solver"], found["float_steps"]) == (4, "dpmpp2m", 16)
    assert found["quality"] is None, "random float weights: there is nothing to hold maps against"
    assert found["backend"] == tiny_backend()
    assert printed("sample", str(file), "--rounds", "1", "--steps", "2", capsys=capsys)["steps"] == 2


def test_sample_prints_the_table_of_the_readme(file: Path, capsys) -> None:
    assert main(["bench", "sample", str(file), "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| one pair | float, 16 steps, s | int8, s |")
    assert lines[1].replace(" ", "") == "|---|---|---|---|---|---|"
    assert "not measured: random weights" in lines[2]


def test_random_weights_of_any_width(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ubq.bench.subject.NARROW", {"velocity_dims": (4, 4, 4, 4, 8), "seismic_samples": 4})
    arguments = ["--width", "16", "--mults", "1,1,1,2", "--rounds", "1", "--no-onnxruntime"]
    found = printed("kernel", *arguments, capsys=capsys)
    assert found["model"] == "(16; 1,1,1,2)"
    assert found["onnxruntime_seconds"] is None
    assert found["ratio"] == pytest.approx(found["float_seconds"] / found["int8_seconds"])
    assert found["share"] == pytest.approx(found["gemm_seconds"] / found["int8_seconds"])


def test_matrices_are_those_of_the_graph(file: Path) -> None:
    """The U-Net's first convolution: 16 positions, kernel 7 of one channel in copies, 16 outputs."""
    matrices = kernel.matrices_of(torch.jit.load(str(file)))
    assert kernel.Matrix(16, 7 * COPIES, 16) in matrices
    assert len(matrices) == 75


@pytest.mark.slow
def test_onnxruntimes_own_quantisation_computes_the_unet(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    unet = random_model(SIZES, tiny_recipe().normalization).model.unet
    step = kernel.onnxruntime_step(unet, SIZES.encoder_dim, SIZES.diffusion_steps, 1, tmp_path)
    x, time = torch.randn(1, 1, SIZES.encoder_dim), torch.tensor([3])
    (ours,) = step(x, time)  # type: ignore[misc]
    wanted = unet(x, time)
    error = (torch.from_numpy(ours) - wanted).norm() / wanted.norm()
    assert 1e-4 < float(error) < 0.5, "quantised, but the same network"


@torch.no_grad()
def test_upstreams_way_is_the_generators_own_at_all_steps() -> None:
    """Eager ancestral chain and decoders against the exported sampler in float."""
    recipe = tiny_recipe(solver="ddpm", steps=SIZES.diffusion_steps)
    model = random_model(SIZES, recipe.normalization)
    generator = Generator(model.model, recipe).eval()
    x_T, noise = torch.randn(2, 1, 16), torch.randn(15, 2, 1, 16)
    latent = generator.sample(x_T, noise, 16)
    assert torch.allclose(model.latents(x_T, noise), latent, atol=1e-4)
    assert torch.allclose(model.velocity(latent), generator.decode(latent)[0], rtol=1e-4)
    velocity, seismic = model.pairs(2)
    assert velocity.shape == (2, 1, 70, 70)
    assert seismic.shape == (2, 5, 1000, 70)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as the pipeline leaves it, with random weights."""
    import numpy as np

    from ubq.config.load import load_config, write_frozen
    from ubq.data.synthetic import synthesise_velocity

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    (folder / "maps").mkdir(parents=True)
    np.save(folder / "maps" / "model1.npy", synthesise_velocity("style-a", 24, 0))
    model = {f"model.{k}": v for k, v in SIZES.to_dict().items()}
    data = {"data.train_velocity": str(folder / "maps"), "data.family": "style-a"}
    overrides = {**model, **data, "quant.backend": tiny_backend()}
    config = load_config("smoke", overrides, isolated=True).config
    (folder / "config.toml").write_text(write_frozen(config))
    recipe = tiny_recipe()
    generator = tiny_generator(recipe)
    save_qat(folder / "checkpoints/qat_diffusion/final_qat_model.pt", generator, recipe)
    state = random_model(SIZES, recipe.normalization).model.state_dict()
    for stage, name, parts in (
        ("train_autoencoder", "autoencoder", PARTS[:3]),
        ("train_seismic", "seismic", PARTS[3:5]),
        ("train_diffusion", "diffusion", PARTS[5:]),
    ):
        own = {n: t for n, t in state.items() if n.startswith(parts) and not t.is_meta}
        save_tensors(folder / "checkpoints" / stage / f"{name}.pt", own)
    export_generator(generator, recipe, folder / "exported_models", "tiny", family="style-a")
    return folder


def test_steps_draws_every_curve(run: Path, tmp_path: Path, capsys) -> None:
    arguments = ["steps", "tiny", "--runs-dir", str(run.parent), "--maps", "8", "--out", str(tmp_path / "c.png")]
    found = printed(*arguments, "--steps", "2,4,999", "--solvers", "dpmpp2m,ddpm", capsys=capsys)
    keys = {(p["model"], p["solver"], p["steps"]) for p in found["points"]}
    assert keys == {(m, s, n) for m in ("float", "int8") for s in ("dpmpp2m", "ddpm") for n in (2, 4)}
    assert found["reference_steps"] == 16
    assert found["model"] == "int8"
    for point in found["points"]:
        assert point["lower"] <= point["ratio"] <= point["upper"]
        assert point["within"] == (point["upper"] <= 1.05)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    assert main(["bench", *arguments, "--steps", "3", "--solvers", "ddim"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| steps | ddim, float | ddim, int8 |"
    assert lines[2].startswith("| 3 | ")


def test_float_maps_of_all_ddpm_steps_are_the_reference(run: Path, tmp_path: Path, capsys) -> None:
    """Float, ancestral, every step, same noise: the distance is that of the reference itself."""
    arguments = ["steps", "tiny", "--runs-dir", str(run.parent), "--maps", "8", "--out", str(tmp_path / "c.png")]
    found = printed(*arguments, "--steps", "16", "--solvers", "ddpm", capsys=capsys)
    ratio = {p["model"]: p["ratio"] for p in found["points"]}
    assert ratio["float"] == pytest.approx(1.0, abs=0.02)


def test_a_run_has_its_quality_measured(run: Path, capsys) -> None:
    found = printed("sample", "tiny", "--runs-dir", str(run.parent), "--rounds", "1", "--maps", "8", capsys=capsys)
    quality = found["quality"]
    assert quality["maps"] == 8
    assert quality["ratio"] == pytest.approx(quality["distance"] / quality["float_distance"])
    assert quality["lower"] <= quality["ratio"] <= quality["upper"]


def test_runtimes_of_a_run(run: Path, capsys) -> None:
    found = printed("runtimes", "tiny", "--runs-dir", str(run.parent), "--rounds", "1", capsys=capsys)
    assert [r["runtime"] for r in found["runtimes"]] == ["torchscript"]
    assert found["steps"] == 4


@pytest.mark.slow
def test_every_training_stage_is_measured(capsys) -> None:
    assert set(STAGES) == set(PROCESS_STAGES) - {"distill"}
    found = measure_training("smoke", ["train-diffusion"], [1, 2], steps=3, gathers=2, threads=1)
    assert [(f.files, f.way) for f in found.figures] == [(1, "plain"), (1, "ubq"), (2, "plain"), (2, "ubq")]
    assert all(f.steps_per_second > 0 and f.peak_mb > f.data_mb >= 0 for f in found.figures)
    assert found.to_markdown().splitlines()[2].startswith("| train-diffusion | 1 |")


@pytest.mark.slow
def test_the_other_training_stages_are_measured_too() -> None:
    stages = [s for s in STAGES if s != "train-diffusion"]
    found = measure_training("smoke", stages, [1], steps=2, gathers=10, threads=1)
    assert [f.stage for f in found.figures[::2]] == stages


def test_forward_modelling_is_measured(capsys) -> None:
    pytest.importorskip("deepwave")
    found = printed("forward", "--maps", "2", "--workers", "1", "--rounds", "1", capsys=capsys)
    assert found["scaling"] == {"1": 1.0}
    assert found["rates"]["1"] > 0


def test_one_clear_line_for_what_cannot_be(file: Path, run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "junk.pt").write_bytes(b"junk")
    runs = ["--runs-dir", str(run.parent)]
    for arguments, words in (
        (["sample", str(tmp_path / "missing.pt")], "does not exist"),
        (["kernel", str(tmp_path / "junk.pt")], "not a model that ubq exported"),
        (["sample", str(file), "--steps", "3"], "does not offer 3"),
        (["sample", str(file), "--backend", "tpu"], "no quantised engine tpu"),
        (["sample", str(file), "--width", "512"], "two models"),
        (["sample", "--width", "512", "--mults", "1,2"], "four levels"),
        (["kernel", "--width", "512", "--mults", "a"], "positive numbers"),
        (["sample", "--width", "64", "--solver", "euler"], "no solver euler"),
        (["sample", "nothing", *runs], "no run nothing"),
        (["steps", "nothing", *runs], "no run nothing"),
        (["steps", "tiny", *runs, "--steps", "999"], "no step count of 1 to 16"),
        (["steps", "tiny", *runs, "--solvers", "euler"], "no solver euler"),
        (["train", "--stages", "train-everything"], "no training stage train-everything"),
        (["train", "--preset", "nothing"], "nothing"),
        (["runtimes", "a.pt", "tiny", *runs], "one run, or files of one model"),
        (["runtimes", str(tmp_path / "missing.pt")], "does not exist"),
    ):
        assert main(["bench", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert words in captured.err, arguments
        assert captured.out == ""


def test_help_imports_no_torch() -> None:
    code = "import sys, ubq.cli.bench; assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
