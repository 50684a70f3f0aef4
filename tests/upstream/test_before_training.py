"""What a run finds out about a checkpoint before it reads a sample or trains a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from upstream_files import fork_diffusion, random_model, sizes_for, upstream_state

from ubq.config.schema import Config
from ubq.data.synthetic import synthesise_velocity
from ubq.errors import EXIT_PREFLIGHT, CheckpointError
from ubq.jobs.checks import preflight
from ubq.jobs.checks.check import Check
from ubq.jobs.checks.configuration import checkpoint
from ubq.jobs.console import QuietConsole
from ubq.jobs.fixes import MARKS, fix_of, out_of_memory
from ubq.jobs.run import start_run
from ubq.model import GaussianDiffusion, UBDiff
from ubq.stages import PIPELINE
from ubq.stages.importing import nothing_learned, read_pretrained
from ubq.stages.paths import RunPaths
from ubq.stages.settings import TABLES


def importing(path: Path, **pretrained: str) -> Config:
    return Config.model_validate({"pretrained": {"path": str(path), **pretrained}, "run": {"name": "r"}})


def fine_tune(model: UBDiff) -> dict[str, Any]:
    """As the fork's fine-tuning of encoder and decoders writes it: the whole model, its U-Net as it was made."""
    state = upstream_state(model.sizes, model)
    return {
        "epoch": 3,
        "step": 90,
        "model": state,
        "optimizer": {},
        "scheduler": {},
        "best_ssim": 0.9,
        "best_loss": 0.1,
    }


def trained(model: UBDiff) -> UBDiff:
    """With a U-Net that has seen what it is judged on, for some seconds."""
    torch.manual_seed(0)
    maps = torch.from_numpy(synthesise_velocity("curvefault-a", 64, 1)) / 1500 - 2
    diffusion = GaussianDiffusion(model.sizes.diffusion_steps, variant=model.sizes.variant)
    with torch.no_grad():
        latents = model.encode(maps).flatten(1)[:, None]
    optimizer = torch.optim.Adam(model.unet.parameters(), lr=3e-3)
    for _step in range(60):
        time = torch.randint(0, diffusion.steps, (len(latents),))
        loss = diffusion.loss(model.unet, latents, time, torch.randn_like(latents))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def by_id(checks: list[Check]) -> dict[str, Check]:
    return {check.id: check for check in checks}


@pytest.mark.parametrize("variant", ["paper", "fork"])
def test_a_unet_that_was_never_trained_is_recognised(variant: str, tmp_path: Path) -> None:
    """Refused where the file was written by a training of the decoders, told of otherwise; a trained one passes."""
    model = random_model(sizes_for(variant))
    torch.save(fine_tune(model), tmp_path / "checkpoint_epoch_3.pth")
    config = importing(tmp_path / "checkpoint_epoch_3.pth")
    check = by_id(list(checkpoint(config)))["checkpoint.trained"]
    assert check.failed
    assert "never trained" in check.figure
    assert "model-4.pt" in check.fix
    assert "--decoder-checkpoint" in check.fix

    torch.save({"step": 1, "model": upstream_state(model.sizes, model)}, tmp_path / "model-1.pt")
    assert by_id(list(checkpoint(importing(tmp_path / "model-1.pt"))))["checkpoint.trained"].status == "warning"

    torch.save(fine_tune(trained(model)), tmp_path / "checkpoint_epoch_4.pth")
    config = importing(tmp_path / "checkpoint_epoch_4.pth")
    assert nothing_learned(config, read_pretrained(config)) == ""
    assert "checkpoint.trained" not in by_id(list(checkpoint(config)))


def test_a_run_reads_its_checkpoint_before_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``prepare`` would read or synthesise is untouched when the checkpoint cannot be used."""
    monkeypatch.setattr(preflight, "check_synthesis", lambda config, names: [])
    model = random_model(sizes_for("fork"))
    content = fork_diffusion(model.sizes, model, model)
    content["ema"]["ema_model"]["final_conv.bias"] = torch.tensor([float("nan")])
    torch.save(content, tmp_path / "model-4.pt")
    paths = RunPaths(tmp_path / "runs/r")
    console = QuietConsole()
    code = start_run(importing(tmp_path / "model-4.pt"), paths, console=console)
    assert code == EXIT_PREFLIGHT
    said = capsys.readouterr().err
    assert "averaged weights are not finite: unet.final_conv.bias" in said
    assert "pretrained.weights=raw" in said
    assert not paths.data.exists()


def test_the_set_of_weights_that_is_sound_can_be_applied(tmp_path: Path) -> None:
    model = random_model(sizes_for("fork"))
    content = fork_diffusion(model.sizes, model, model)
    content["ema"]["ema_model"]["final_conv.bias"] = torch.tensor([float("inf")])
    torch.save(content, tmp_path / "m.pt")
    check = by_id(list(checkpoint(importing(tmp_path / "m.pt"))))["checkpoint.path"]
    assert check.failed
    assert check.apply == {"pretrained.weights": "raw"}
    fixed = importing(tmp_path / "m.pt", weights="raw")
    assert not by_id(list(checkpoint(fixed)))["checkpoint.path"].failed


def test_the_stage_itself_refuses_too(tmp_path: Path) -> None:
    """Also where preflight was left out."""
    from ubq.stages.importing import Import

    model = random_model(sizes_for("fork"))
    torch.save(fine_tune(model), tmp_path / "checkpoint_epoch_3.pth")

    class Context:
        config = importing(tmp_path / "checkpoint_epoch_3.pth")
        paths = RunPaths(tmp_path / "run")

    with pytest.raises(CheckpointError, match="never trained"):
        Import().run(Context())  # type: ignore[arg-type]


def heeded(config: Config, key: str) -> bool:
    reads = {r for stage in PIPELINE if stage.applies(config) for r in stage.reads}
    return any(key == r or key.startswith(f"{r}.") for r in reads)


@pytest.mark.parametrize("path", ["", "model.pt"])
def test_fixes_name_keys_that_the_run_reads(path: str) -> None:
    """Those of an imported model change nothing that only pretraining reads."""
    stages = "; ".join(f"{stage.name}: 9 steps, 10 needed" for stage in PIPELINE if stage.name in TABLES)
    for scheme in ("default", "aggressive"):
        config = Config.model_validate(
            {
                "pretrained": {"path": path},
                "quant": {"scheme": scheme, "fold_batchnorm": False},
                "model": {"dim_mults": (1, 2, 4, 8)},
                "export": {"steps": 20, "solver": "dpmpp2m"},
            }
        )
        running = [s.name for s in PIPELINE if s.applies(config)]
        how = "; ".join(part for part in stages.split("; ") if part.partition(":")[0] in running)
        fixes = {mark: fix_of(mark, config, how) for mark in MARKS}
        fixes |= {f"memory of {name}": out_of_memory(config, name) for name in running}
        for name, fix in fixes.items():
            assert all(heeded(config, key) for key in fix.apply), (name, fix)
            assert fix.cause
            assert fix.apply or fix.action
            if path:
                assert "preset" not in fix.action, "its sizes are the checkpoint's"


def test_decoders_of_a_qat_stage_are_looked_at_before_anything_runs(tmp_path: Path) -> None:
    """Of another model, incomplete, or no such file: hours later it would be too late."""
    from tiny import calibrated, tiny_model, tiny_recipe

    from ubq.quant.checkpoint import save_qat

    recipe = tiny_recipe("paper")
    generator = calibrated(tiny_model("paper"), recipe)
    save_qat(tmp_path / "final_qat_decoders.pt", generator, recipe, ("velocity", "seismic"))
    save_qat(tmp_path / "half.pt", generator, recipe, ("velocity",))
    torch.save({"model": {}}, tmp_path / "other.pt")
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.sizes.to_dict().items()}

    def problem(name: str, **model: Any) -> str:
        pretrained = {"decoder_path": str(tmp_path / name)}
        config = Config.model_validate({"pretrained": pretrained, "model": {**sizes, **model}})
        check = by_id(list(checkpoint(config))).get("checkpoint.decoder_path")
        return check.figure if check and check.failed else ""

    assert problem("final_qat_decoders.pt") == ""
    assert "velocity_latent is 8, not 16" in problem("final_qat_decoders.pt", velocity_latent=16)
    assert "no seismic decoder" in problem("half.pt")
    assert "no decoders of a QAT stage" in problem("other.pt")
    assert "does not exist" in problem("absent.pt")
