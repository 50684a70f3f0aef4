"""What the U-Net is trained towards, in float and fake-quantised, and in which number format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_loop import Context
from tiny import calibrated, tiny_model, tiny_recipe
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ubq.config.load import load_config
from ubq.config.schema import QatDiffusionTraining, RunConfig
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import start_run
from ubq.model import GaussianDiffusion
from ubq.quant.phases import phase_set, set_phase
from ubq.stages.diffusion import TrainDiffusion
from ubq.stages.paths import RunPaths
from ubq.training.files import save_tensors
from ubq.training.latents import Latents
from ubq.training.loop import train
from ubq.training.qat import QatDiffusionTask
from ubq.training.randomness import SampleDraws

SAMPLES = torch.arange(8)


class ProductTypes(TorchDispatchMode):
    """The number formats that convolutions and linears compute in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("convolution", "addmm", "mm"):
            self.seen.add(result.dtype)
        return result


@pytest.fixture
def cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})


@pytest.mark.usefixtures("cpu_with_bfloat16")
@pytest.mark.parametrize(("channels", "dtype"), [(128, torch.bfloat16), (16, torch.float32)])
def test_wide_unets_train_in_bfloat16(channels: int, dtype: torch.dtype, tmp_path: Path) -> None:
    changes = {"model.unet_dim": channels, "train.diffusion.steps": 1, "train.diffusion.batch_size": 16, "threads": 1}
    config = load_config("smoke", changes, isolated=True).config
    paths = RunPaths(tmp_path / "run")
    paths.latents.parent.mkdir(parents=True)
    save_tensors(paths.latents, {side: torch.rand(1, config.model.encoder_dim) for side in ("train", "val")})
    with ProductTypes() as types:
        assert start_run(config, paths, stages=[TrainDiffusion()], preflight=False, console=QuietConsole()) == 0
    assert dtype in types.seen
    assert dtype == torch.bfloat16 or types.seen == {torch.float32}


def qat_task(distillation: float) -> QatDiffusionTask:
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    latents = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = QatDiffusionTraining(distillation=distillation)
    return QatDiffusionTask(generator.unet, GaussianDiffusion(16), Latents(latents, latents), settings)


def loss(task: QatDiffusionTask) -> Tensor:
    return task.loss(SAMPLES, SampleDraws(0, "test", SAMPLES.tolist()))


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_fake_quantised_ones_do_not() -> None:
    settings = QatDiffusionTraining(steps=1, batch_size=4)
    with ProductTypes() as types:
        train(qat_task(0.0), Context(), settings, RunConfig(), 0, torch.device("cpu"))
    assert types.seen == {torch.float32}


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
