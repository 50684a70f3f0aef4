"""``ubq export`` and ``ubq export digest`` on small checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_generator import SIZES, tiny_backend, tiny_generator, tiny_recipe

from ubq.cli import main
from ubq.export.manifest import damaged_files, read_manifest
from ubq.model import GaussianDiffusion, UBDiff
from ubq.quant.checkpoint import save_qat
from ubq.upstream.importer import read_checkpoint
from ubq.upstream.names import upstream_names


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qat") / "final_qat_model.pt"
    recipe = tiny_recipe()
    save_qat(path, tiny_generator(recipe), recipe)
    return path


def exported(folder: Path, *arguments: str, capsys) -> dict:
    capsys.readouterr()
    assert main(["export", *arguments, "--out", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_checkpoint_becomes_a_folder_whose_digest_anyone_can_recompute(checkpoint, tmp_path, capsys) -> None:
    result = exported(tmp_path, str(checkpoint), "--name", "small", "--family", "style-b", capsys=capsys)
    assert {f.name for f in tmp_path.iterdir()} == {
        "small.pt", "small_info.txt", "deployment_guide.md", "manifest.json",
    }  # fmt: skip
    manifest = read_manifest(tmp_path / "manifest.json")
    assert damaged_files(tmp_path / "manifest.json") == []
    assert manifest["family"] == "style-b"
    assert manifest["weights_sha256"] == result["weights_sha256"]
    assert main(["export", "digest", str(tmp_path / "small.pt")]) == 0
    assert capsys.readouterr().out.strip() == result["weights_sha256"]
    assert main(["export", "digest", str(tmp_path / "small.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights_sha256"] == result["weights_sha256"]
    velocity, seismic = torch.jit.load(result["file"])(1)
    assert velocity.shape == (1, 1, 70, 70)
    assert seismic.shape == (1, 5, 1000, 70)


def test_the_spelled_out_command_and_options_first_do_the_same(checkpoint, tmp_path, capsys) -> None:
    a = exported(tmp_path / "a", "checkpoint", str(checkpoint), capsys=capsys)
    b = exported(tmp_path / "b", "--steps", "4", str(checkpoint), capsys=capsys)
    assert a["weights_sha256"] == b["weights_sha256"]


def test_solver_steps_and_engine_can_be_changed_and_the_weights_stay(checkpoint, tmp_path, capsys) -> None:
    plain = exported(tmp_path / "a", str(checkpoint), capsys=capsys)
    assert (plain["solver"], plain["steps"]) == ("dpmpp2m", 4)
    other = exported(
        tmp_path / "b", str(checkpoint), "--solver", "ddpm", "--step-choice", "3", "--backend", tiny_backend(),
        capsys=capsys,
    )  # fmt: skip
    assert (other["solver"], other["steps"]) == ("ddpm", 16)
    assert other["weights_sha256"] == plain["weights_sha256"]
    model = torch.jit.load(other["file"])
    x = torch.randn(1, 1, 16)
    assert model.sample(x, torch.randn(2, 1, 1, 16), 3).shape == x.shape


def test_a_distilled_checkpoint_draws_in_its_own_steps_alone(tmp_path, capsys) -> None:
    recipe = tiny_recipe()
    recipe = replace(recipe, export=recipe.export.distilled(2), distilled=True)
    path = tmp_path / "final_qat_model.pt"
    save_qat(path, tiny_generator(recipe), recipe)
    result = exported(tmp_path / "out", str(path), capsys=capsys)
    assert (result["solver"], result["steps"]) == ("ddim", 2)
    manifest = read_manifest(tmp_path / "out" / "manifest.json")
    assert (manifest["distilled"], manifest["step_counts"]) == (True, [2])
    model = torch.jit.load(result["file"])
    assert model.sampler.times.tolist() == [15, 7]
    same = exported(tmp_path / "same", str(path), "--steps", "2", "--solver", "ddim", capsys=capsys)
    assert same["weights_sha256"] == result["weights_sha256"]
    for other in (["--steps", "4"], ["--solver", "dpmpp2m"], ["--step-choice", "4"]):
        assert main(["export", str(path), "--out", str(tmp_path / "other"), *other]) == 2
        assert "is distilled to 2 steps" in capsys.readouterr().err
    assert main(["sample", result["file"], "--steps", "4", "--out", str(tmp_path / "pairs")]) == 2
    assert "leave --steps out" in capsys.readouterr().err


def test_no_quantize_writes_float_with_the_same_calls(checkpoint, tmp_path, capsys) -> None:
    result = exported(tmp_path, str(checkpoint), "--no-quantize", capsys=capsys)
    assert result["quantised"] is False
    assert result["weights_sha256"] is None
    model = torch.jit.load(result["file"])
    velocity, _ = model.decode(model.sample(torch.randn(2, 1, 16), torch.randn(3, 2, 1, 16), 4))
    assert velocity.shape == (2, 1, 70, 70)
    assert not [m for m in model.modules() if hasattr(m, "packed")]


def test_an_upstream_float_checkpoint_is_written_in_float_and_not_otherwise(tmp_path, capsys) -> None:
    sizes = replace(SIZES, unet_dim=16, attention_heads=1, attention_dim_head=32, norm_groups=8, seismic_heads=8)
    torch.manual_seed(0)
    state = UBDiff(sizes).state_dict()
    state |= {f"diffusion.{n}": t for n, t in GaussianDiffusion(sizes.diffusion_steps).state_dict().items()}
    upstream = upstream_names("paper", len(sizes.dim_mults), sizes.seismic_depth)
    spelled = {name: state[ours] for ours, names in upstream.items() if ours in state for name in names}
    path = tmp_path / "model-5.pt"
    torch.save({"step": 3, "model": spelled}, path)
    assert main(["export", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no int8 weights" in error
    assert f"ubq run --pretrained-path {path}" in error
    result = exported(
        tmp_path / "out", str(path), "--no-quantize", "--family", "flatvel-a", "--backend", tiny_backend(),
        capsys=capsys,
    )  # fmt: skip
    latent = torch.randn(2, 1, 16)
    with torch.no_grad():
        velocity = torch.jit.load(result["file"]).decode(latent)[0]
        wanted = read_checkpoint(path).model().decode_velocity(latent[:, 0])
    torch.testing.assert_close(velocity, wanted * 1500 + 3000, rtol=1e-4, atol=0.1)


def test_one_clear_line_for_what_cannot_be(checkpoint, tmp_path, capsys) -> None:
    recipe = tiny_recipe()
    half = tmp_path / "final_qat_decoders.pt"
    save_qat(half, tiny_generator(recipe), recipe, parts=("velocity", "seismic"))
    (tmp_path / "junk.pt").write_bytes(b"junk")
    out = ["--out", str(tmp_path / "out")]
    for arguments, words in (
        ([str(tmp_path / "missing.pt")], "does not exist"),
        (["nothing", "--runs-dir", str(tmp_path)], "no run nothing"),
        ([str(half)], "lacks diffusion"),
        ([str(tmp_path / "junk.pt"), "--no-quantize"], "junk.pt"),
        ([str(checkpoint), "--solver", "euler"], "export.solver"),
        ([str(checkpoint), "--steps", "99"], "99 sampling steps"),
        ([str(checkpoint), "--backend", "tpu"], "quant.backend"),
        ([str(checkpoint), "--family", "marmousi"], "not an OpenFWI family"),
        ([str(checkpoint), "--backend", "fbgemm"], "another number of bits"),
    ):
        assert main(["export", *arguments, *out]) == 2, arguments
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", "digest", str(tmp_path / "junk.pt")]) == 2
    assert main(["export", "digest", str(tmp_path / "missing.pt")]) == 2
