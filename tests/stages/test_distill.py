"""The stage distill and what qat-diffusion makes of its student, on a tiny run folder in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_sizes

from ubq.config.load import load_config
from ubq.config.schema import Config
from ubq.quant.checkpoint import save_qat, skeleton
from ubq.quant.phases import quant_layers, set_phase
from ubq.stages import qat_diffusion
from ubq.stages.base import Stopped
from ubq.stages.distill import TEACHER, Distill
from ubq.stages.floatmodel import STUDENT
from ubq.stages.paths import RunPaths
from ubq.stages.qat import recipe_of
from ubq.stages.qat_diffusion import FINAL, QatDiffusion
from ubq.training.files import load_tensors, save_tensors
from ubq.training.store import CheckpointStore

SMALL = {
    "distill.steps": 2,
    "distill.teacher_steps": 4,
    "distill.trajectories": 100,
    "distill.updates": 6,
    "distill.batch_size": 8,
    "distill.lr": 2e-3,
    "qat.diffusion.steps": 4,
    "qat.diffusion.batch_size": 8,
    "run.checkpoint_steps": 2,
    "threads": 1,
}


@dataclass
class Context:
    """A stage's context that stops when it is asked the ``stop_at``-th time."""

    config: Config
    paths: RunPaths
    stage: str
    stop_at: int = 0
    asked: int = 0
    logged: list[str] = field(default_factory=list)
    events: dict[str, object] = field(default_factory=dict)

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.paths.checkpoints(self.stage))

    def stop_requested(self) -> bool:
        self.asked += 1
        return self.asked == self.stop_at

    def progress(self, step: int, steps: int, **figures: float | str) -> None: ...
    def metrics(self, step: int, **figures: float | str) -> None: ...
    def checkpoint_saved(self, step: int) -> None: ...

    def event(self, kind: str, **fields: object) -> None:
        self.events[kind] = fields

    def log(self, message: str) -> None:
        self.logged.append(message)


def config_of(**changes: object) -> Config:
    model = {f"model.{name}": value for name, value in tiny_sizes("paper").to_dict().items()}
    return load_config("smoke", {**model, **SMALL, **changes}, isolated=True).config


def run_folder(folder: Path, seed: int = 0) -> RunPaths:
    """As train-diffusion leaves it."""
    paths = RunPaths(folder)
    state = {n: t for n, t in tiny_model("paper", seed).state_dict().items() if n.startswith("unet.")}
    save_tensors(paths.checkpoints("train-diffusion") / "diffusion.pt", state)
    save_tensors(paths.latents, {"train": torch.rand(16, 16) * 2 - 1, "val": torch.rand(8, 16) * 2 - 1})
    return paths


def files_of(paths: RunPaths) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_tensors(paths.checkpoints("distill") / name) for name in (STUDENT, TEACHER)}


def distilled(folder: Path, *stops: int) -> RunPaths:
    """The stage run to its end, stopped on the way as often as there are ``stops``."""
    paths = run_folder(folder)
    for stop in stops:
        with pytest.raises(Stopped):
            Distill().run(Context(config_of(), paths, "distill", stop))
    Distill().run(Context(config_of(), paths, "distill"))
    return paths


def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Once between two blocks of the teacher's ends, once in the training."""
    whole, stopped = files_of(distilled(tmp_path / "whole")), files_of(distilled(tmp_path / "stopped", 3, 5))
    for name, tensors in whole.items():
        assert all(torch.equal(tensor, stopped[name][key]) for key, tensor in tensors.items()), name
    start = tiny_model("paper").state_dict()
    assert any(not torch.equal(tensor, start[key]) for key, tensor in whole[STUDENT].items())


def test_ends_of_another_teacher_are_drawn_anew(tmp_path: Path) -> None:
    paths = distilled(tmp_path)
    before = files_of(paths)[TEACHER]["latents"].clone()
    state = {n: t for n, t in tiny_model("paper", seed=1).state_dict().items() if n.startswith("unet.")}
    save_tensors(paths.checkpoints("train-diffusion") / "diffusion.pt", state)
    Distill().run(Context(config_of(), paths, "distill"))
    after = files_of(paths)[TEACHER]["latents"]
    assert after.shape == before.shape
    assert not torch.equal(after[:64], before[:64])


def with_decoders(paths: RunPaths, config: Config) -> None:
    """As qat-decoders leaves them."""
    recipe = recipe_of(config, paths)
    generator = skeleton(recipe).to_empty(device="cpu")
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for layer in quant_layers(generator).values():
        for observer in layer.observers():
            observer.reset()
    set_phase(generator, "frozen")
    save_qat(paths.checkpoints("qat-decoders") / "final_qat_decoders.pt", generator, recipe, ("velocity", "seismic"))


@pytest.mark.parametrize("trained", [0.04, 0.06])
def test_training_is_kept_only_where_it_ends_nearer_to_the_float_student(
    trained: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, config = distilled(tmp_path), config_of()
    with_decoders(paths, config)
    measured = []

    def end_error(*arguments: Any) -> float:
        measured.append(real(*arguments))
        return (0.05, trained)[len(measured) - 1]

    real = qat_diffusion.end_error
    monkeypatch.setattr(qat_diffusion, "write_stage_analysis", lambda *_args: None)
    monkeypatch.setattr(qat_diffusion, "end_error", end_error)
    context = Context(config, paths, "qat-diffusion")
    QatDiffusion().run(context)
    assert all(0 < error < 0.5 for error in measured)
    saved = torch.load(paths.checkpoints("qat-diffusion") / FINAL, weights_only=True)
    assert saved["distilled"]
    assert saved["export"]["steps"] == 2
    student = files_of(paths)[STUDENT]["unet.mid_block1.conv1.weight"].unsqueeze(2)
    worse = trained > 0.05
    assert torch.equal(saved["state"]["unet.mid_block1.conv1.weight"], student) == worse
    assert any("calibrated weights are kept" in line for line in context.logged) == worse


def test_without_training_the_calibrated_student_is_what_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, config = distilled(tmp_path), config_of(**{"qat.epochs": 0, "qat.diffusion.steps": 0})
    with_decoders(paths, config)
    monkeypatch.setattr(qat_diffusion, "write_stage_analysis", lambda *_args: None)
    context = Context(config, paths, "qat-diffusion")
    QatDiffusion().run(context)
    assert not list(paths.checkpoints("qat-diffusion").glob("step-*")), "no step was taken"
    saved = torch.load(paths.checkpoints("qat-diffusion") / FINAL, weights_only=True)
    assert (saved["distilled"], saved["export"]["steps"]) == (True, 2)
    student = files_of(paths)[STUDENT]["unet.mid_block1.conv1.weight"].unsqueeze(2)
    assert torch.equal(saved["state"]["unet.mid_block1.conv1.weight"], student)
