"""Activation checkpointing: the same training to the bit, with the blocks computed twice and less kept."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import VARIANTS, calibrated, tiny_model, tiny_recipe
from torch import Tensor, nn

from ubq.config.load import load_config
from ubq.config.schema import ExportConfig, QatDiffusionTraining
from ubq.model import GaussianDiffusion
from ubq.model.unet import ResidualBlock
from ubq.quant.phases import TRAINING_PHASES, set_phase
from ubq.stages.estimate import memory_of
from ubq.training.checkpointing import activation_checkpointing
from ubq.training.distill import DistillTask, Ends, QatDistillTask, start_noise
from ubq.training.latents import Latents
from ubq.training.qat import QatDiffusionTask
from ubq.training.randomness import SampleDraws
from ubq.training.tasks import DiffusionTask

LENGTH, BATCH = 16, 6
NOISE = start_noise(0, range(BATCH), LENGTH)
SAMPLES = torch.arange(BATCH)


def one_evaluation(variant: str, quantised: bool) -> DiffusionTask:
    """The U-Net towards its data."""
    latents = Latents(NOISE[:, 0], NOISE[:, 0])
    diffusion = GaussianDiffusion(16, "v")
    if not quantised:
        return DiffusionTask(tiny_model(variant).unet, diffusion, latents)
    unet = calibrated(tiny_model(variant), tiny_recipe(variant)).unet
    return QatDiffusionTask(unet, diffusion, latents, QatDiffusionTraining(distillation=0.5))


def two_evaluations(variant: str, quantised: bool) -> DistillTask:
    """The U-Net towards its teacher's ends: every layer is used, and observed, twice a step."""
    recipe = replace(tiny_recipe(variant, export=ExportConfig().distilled(2)), distilled=True)
    generator = calibrated(tiny_model(variant), recipe)
    ends = Ends(NOISE, NOISE.flip(0))
    if quantised:
        return QatDistillTask(generator.unet, generator.sampler, ends, ends, QatDiffusionTraining())
    set_phase(generator.unet, "float")
    return DistillTask(generator.unet, generator.sampler, ends, ends)


def trained(task: DiffusionTask | DistillTask, phase: str, steps: int = 2) -> dict[str, Tensor]:
    """Gradients, weights and ranges after some steps."""
    task.enter(phase)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    found: dict[str, Tensor] = {}
    for step in range(steps):
        optimizer.zero_grad()
        task.loss(SAMPLES, SampleDraws(0, "test", range(step * BATCH, (step + 1) * BATCH))).backward()
        found |= {f"{n} {step}": p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
        optimizer.step()
    return found | {n: t.clone() for n, t in task.model.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("make", [one_evaluation, two_evaluations])
@pytest.mark.parametrize("phase", ["train", *TRAINING_PHASES])
def test_results_are_those_without_to_the_bit(variant: str, make: type, phase: str) -> None:
    task = make(variant, phase != "train")
    again = copy.deepcopy(task)
    plain = trained(task, phase)
    with activation_checkpointing(again.model, 1 if make is one_evaluation else 2):
        saving = trained(again, phase)
    assert len(plain) > 100
    assert plain.keys() == saving.keys()
    assert [n for n in plain if not torch.equal(plain[n], saving[n])] == []


class Counts(nn.Module):
    """Calls of a layer."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


@pytest.mark.parametrize(("make", "plain", "checkpointed"), [(one_evaluation, 1, 2), (two_evaluations, 2, 6)])
def test_blocks_are_computed_again_in_training_alone(make: type, plain: int, checkpointed: int) -> None:
    task = make("paper", False)
    block = task.model.final_block
    assert isinstance(block, ResidualBlock)
    block.act1 = nn.Sequential(block.act1, Counts())
    counter = block.act1[1]
    with activation_checkpointing(task.model, 1 if make is one_evaluation else 2):
        task.loss(SAMPLES, SampleDraws(0, "test", range(BATCH))).backward()
        assert counter.calls == checkpointed
    counter.calls = 0
    task.loss(SAMPLES, SampleDraws(0, "test", range(BATCH))).backward()
    assert counter.calls == plain
    assert "forward" not in vars(block)


def test_full_size_fits_a_device_of_24_gb() -> None:
    config = load_config("curvefault-a", {"qat.batch_size": 64}, isolated=True).config
    memory = {name: needed for name, needed in memory_of(config).items() if needed.checkpointed is not None}
    assert set(memory) == {"train-diffusion", "distill", "qat-diffusion"}
    for needed in memory.values():
        assert needed.total > 30e9
        assert needed.on("off", 0) == needed == needed.on("auto", needed.total)
        assert needed.on("on", needed.total).total < 24e9
        assert needed.on("auto", needed.total - 1) == needed.on("on", 0)
