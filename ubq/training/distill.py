"""Distillation of the U-Net to a few sampling steps: it learns to end where its teacher's many steps end.

Direct distillation (Luhman & Luhman 2021) on the student's own way: all of its steps are in the graph, so that it
meets, in training as in use, the states that it makes itself, and a later step learns to correct what the ones before
it left. The teacher is the same U-Net with a deterministic solver; where it ends is drawn once.

Shapes: B batch, N noises, L latent length, K sampling steps of the student.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ubq.config.schema import QatDiffusionTraining
from ubq.quant.generator import Generator, Sampler
from ubq.quant.phases import phase_at, set_phase
from ubq.training.randomness import SampleDraws
from ubq.training.tasks import _FloatTask, evaluation, mean_over

HELD_OUT = 128
"""Noises of a validation, which no training sees."""
AT_A_TIME = 64
"""Noises that are followed together. Fixed: another number would change last digits."""


@dataclass(frozen=True)
class Ends:
    """Start noise and the latents that it is to end in, (N, 1, L) each."""

    noise: Tensor
    latent: Tensor

    def __len__(self) -> int:
        return len(self.noise)

    def towards(self, latent: Tensor, share: float) -> Ends:
        """The same noise, its ends moved by a share of the way to others (N, 1, L)."""
        return replace(self, latent=torch.lerp(self.latent, latent, share))


def start_noise(seed: int, samples: range, length: int) -> Tensor:
    """(N, 1, L) float32, of each sample its own."""
    return SampleDraws(seed, "distill-noise", samples).normal(1, length)


@torch.no_grad()
def ends_of(generator: Generator, noise: Tensor) -> Tensor:
    """Latents (N, 1, L) that a generator's default steps, of a deterministic solver, lead noise (N, 1, L) to."""
    return torch.cat([generator.sample(part, part.new_empty(0), 0) for part in noise.split(AT_A_TIME)])


def way_of(unet: nn.Module, sampler: Sampler, noise: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The deterministic way of noise (B, 1, L) through all steps of a sampler that offers one step count.

    What ``Generator.sample`` computes, with a graph: the clamp hands gradients on as if it were not there, since a
    latent that is outside could not come back otherwise.

    Returns:
        Latents (B, 1, L), and the states (B, 1, L) that the U-Net met, each with its time (B,).
    """
    x, met = noise, []
    previous = torch.zeros_like(x)
    for time, c in zip(sampler.times, sampler.coefficients, strict=True):
        times = time.expand(len(x))
        met.append((x, times))
        x0 = c[0] * x + c[1] * unet(x, times)
        x0 = x0 + (x0.clamp(-1.0, 1.0) - x0).detach()
        x = c[2] * x + c[3] * x0 + c[4] * previous
        previous = x0
    return x, met


class DistillTask(_FloatTask):
    """The U-Net, by the squared distance of its ends to the teacher's.

    Args:
        wide: as of ``DiffusionTask``.
    """

    bfloat16_on: tuple[str, ...] = ("cuda",)

    def __init__(self, unet: nn.Module, sampler: Sampler, train: Ends, held_out: Ends, wide: bool = False) -> None:
        self.model, self.sampler, self.train, self.held_out = unet, sampler, train, held_out
        if wide:
            self.bfloat16_on = (*self.bfloat16_on, "cpu")
        self.train_samples = len(train)

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        return self._loss(self.train, samples)

    def validate(self, batch: int) -> float:
        with evaluation(self.model):
            return mean_over(len(self.held_out), batch, lambda samples: self._loss(self.held_out, samples))

    def _loss(self, ends: Ends, samples: Tensor) -> Tensor:
        latent, _met = way_of(self.model, self.sampler, ends.noise[samples])
        return F.mse_loss(latent.float(), ends.latent[samples])


class QatDistillTask(DistillTask):
    """The same, fake-quantised."""

    bfloat16_on: tuple[str, ...] = ()

    def __init__(
        self, unet: nn.Module, sampler: Sampler, train: Ends, held_out: Ends, settings: QatDiffusionTraining
    ) -> None:
        super().__init__(unet, sampler, train, held_out)
        self.settings = settings

    def phase(self, step: int, steps: int) -> str:
        return phase_at(step, steps, self.settings.warmup)

    def enter(self, phase: str) -> None:
        set_phase(self.model, phase)
