"""What the U-Net is trained towards, in float and fake-quantised, and in which number format."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import calibrated, tiny_model, tiny_recipe
from torch import Tensor, nn

from ubq.config.load import load_config
from ubq.config.schema import QatDiffusionTraining
from ubq.model import GaussianDiffusion
from ubq.quant.phases import phase_set, set_phase
from ubq.stages import diffusion as stage
from ubq.training.latents import Latents
from ubq.training.qat import QatDiffusionTask
from ubq.training.randomness import SampleDraws

SAMPLES = torch.arange(8)


@pytest.mark.parametrize(("preset", "narrow_types"), [("curvefault-a-edge", True), ("demo", False)])
def test_wide_unets_train_in_bfloat16(preset: str, narrow_types: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def run_training(context: object, task: object, *_rest: object) -> None:
        raise Seen(task.cpu_bfloat16)  # type: ignore[attr-defined]

    monkeypatch.setattr(stage, "new_parts", lambda *_args: {"unet": nn.Identity()})
    monkeypatch.setattr(
        "ubq.training.latents.load_latents", lambda *_args: Latents(torch.zeros(4, 8), torch.zeros(4, 8))
    )
    monkeypatch.setattr(stage, "run_training", run_training)
    context = SimpleNamespace(config=load_config(preset, isolated=True).config, paths=None)
    with pytest.raises(Seen) as seen:
        stage.TrainDiffusion().run(context)  # type: ignore[arg-type]
    assert seen.value.args == (narrow_types,)


def qat_task(distillation: float) -> QatDiffusionTask:
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    latents = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = QatDiffusionTraining(distillation=distillation)
    return QatDiffusionTask(generator.unet, GaussianDiffusion(16), Latents(latents, latents), settings)


def loss(task: QatDiffusionTask) -> Tensor:
    return task.loss(SAMPLES, SampleDraws(0, "test", SAMPLES.tolist()))


def test_fake_quantised_ones_do_not() -> None:
    assert not qat_task(0.0).cpu_bfloat16


@torch.no_grad()
def test_a_quantised_unet_that_is_its_float_one_has_nothing_left_to_distil() -> None:
    whole = qat_task(1.0)
    with phase_set(whole.model, "float"):
        assert float(loss(whole)) < 1e-10
    assert float(loss(whole)) > 1e-8  # what quantisation alone costs


@torch.no_grad()
def test_distillation_blends_the_targets_by_its_share() -> None:
    """Of a quadratic loss the value at a blend of two targets follows from those at both and their distance."""
    none, half, whole = (float(loss(qat_task(share))) for share in (0.0, 0.5, 1.0))
    teacher = qat_task(0.0)
    with phase_set(teacher.model, "float"):
        apart = float(loss(teacher))
    assert half == pytest.approx(0.5 * none + 0.5 * whole - 0.25 * apart, rel=1e-4)


def test_the_teacher_stays_what_it_was_and_is_no_part_of_what_is_saved() -> None:
    task = qat_task(0.5)
    assert task.teacher is not None
    names = set(task.model.state_dict())
    before = [p.clone() for p in task.teacher.parameters()]
    set_phase(task.model, "activations")
    optimiser = torch.optim.SGD(task.model.parameters(), lr=0.1)
    loss(task).backward()
    optimiser.step()
    assert set(task.model.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(task.teacher.parameters(), before, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(task.model.parameters(), before, strict=True))
