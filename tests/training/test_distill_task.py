"""A U-Net that learns to end where its teacher's many steps end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import VARIANTS, calibrated, tiny_model, tiny_recipe
from torch import Tensor, nn

from ubq.config.schema import ConvolutionalTraining, ExportConfig, QatDiffusionTraining
from ubq.quant.generator import Generator
from ubq.quant.phases import phase_set
from ubq.training.distill import DistillTask, Ends, QatDistillTask, ends_of, start_noise, way_of
from ubq.training.optimizer import StageOptimizer
from ubq.training.randomness import SampleDraws

LENGTH = 16
NOISE = start_noise(0, range(24), LENGTH)
SAMPLES = torch.arange(len(NOISE))
DRAWS = SampleDraws(0, "test", SAMPLES.tolist())


def student_of(variant: str, steps: int) -> Generator:
    recipe = tiny_recipe(variant, export=ExportConfig().distilled(steps))
    return Generator(tiny_model(variant), replace(recipe, distilled=True)).eval()


def teacher_ends(variant: str, solver: str, steps: int = 8) -> Ends:
    export = ExportConfig(solver=solver, steps=steps)  # type: ignore[arg-type]
    return Ends(NOISE, ends_of(Generator(tiny_model(variant), tiny_recipe(variant, export=export)).eval(), NOISE))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_what_is_trained_is_what_the_file_draws(steps: int) -> None:
    student = student_of("paper", steps)
    with torch.no_grad():
        latents, met = way_of(student.unet, student.sampler, NOISE)
        assert torch.equal(latents, student.sample(NOISE, NOISE.new_empty(0), 0))
    assert [int(time[0]) for _x, time in met] == student.sampler.times.tolist()
    assert torch.equal(met[0][0], NOISE)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp2m"])
def test_the_student_comes_closer_to_its_teachers_ends(variant: str, solver: str) -> None:
    student, ends = student_of(variant, 2), teacher_ends(variant, solver)
    task = DistillTask(student.unet, student.sampler, ends, ends)
    with torch.no_grad():
        before = task.validate(8)
    optimizer = torch.optim.AdamW(student.unet.parameters(), lr=2e-3)
    for _ in range(15):
        optimizer.zero_grad()
        task.loss(SAMPLES, DRAWS).backward()
        optimizer.step()
    with torch.no_grad():
        assert task.validate(8) < 0.7 * before


def test_a_latent_beyond_the_range_still_has_a_gradient_back() -> None:
    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(-5.0))

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return self.shift.expand_as(x)

    unet = Far()
    latents, _met = way_of(unet, student_of("paper", 1).sampler, NOISE)
    assert torch.equal(latents, torch.ones_like(latents))
    latents.mean().backward()
    assert unet.shift.grad is not None
    assert float(unet.shift.grad) != 0


def test_noise_of_a_sample_is_its_own() -> None:
    assert torch.equal(start_noise(0, range(5, 9), LENGTH), NOISE[5:9])
    assert not torch.equal(start_noise(1, range(4), LENGTH), NOISE[:4])


@torch.no_grad()
def test_quantised_and_taught_by_itself_nothing_but_rounding_is_left() -> None:
    recipe = tiny_recipe("paper", export=ExportConfig().distilled(2))
    generator = calibrated(tiny_model("paper"), replace(recipe, distilled=True))
    with phase_set(generator, "float"):
        own = ends_of(generator, NOISE)
    teacher = Ends(NOISE, torch.zeros_like(own))
    task = QatDistillTask(generator.unet, generator.sampler, teacher.towards(own, 1.0), teacher, QatDiffusionTraining())
    rounding = float(task.loss(SAMPLES, DRAWS))
    assert 0 < rounding < 0.1 * float(own.square().mean())
    with phase_set(generator.unet, "float"):
        assert float(task.loss(SAMPLES, DRAWS)) < 1e-10
    assert torch.equal(teacher.towards(own, 0.5).latent, 0.5 * own)


def test_a_time_blind_unet_learns_with_muon_too() -> None:
    """Its time embedding never gets a gradient, and Muon steps whole groups of matrices."""
    student, ends = student_of("fork", 2), teacher_ends("fork", "dpmpp2m")
    task = DistillTask(student.unet, student.sampler, ends, ends)
    settings = ConvolutionalTraining(optimizer="muon", lr=2e-3)
    optimizer = StageOptimizer(student.unet, settings, torch.device("cpu"))
    with torch.no_grad():
        before = task.validate(8)
    for _ in range(3):
        task.loss(SAMPLES, DRAWS).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert task.validate(8) < before
