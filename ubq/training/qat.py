"""Quantisation-aware versions of the tasks: the same losses, with phases from observing to frozen."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from ubq.config.schema import QatDiffusionTraining, QatTraining
from ubq.data.normalization import Normalization
from ubq.quant.phases import phase_at, set_phase
from ubq.training.latents import Latents, Maps
from ubq.training.randomness import SampleDraws
from ubq.training.tasks import (
    DiffusionTask,
    LatentDiffusion,
    evaluation,
    gather_loss,
    mean_over,
    reconstruction_loss,
    velocity_loss,
)
from ubq.training.upsampling import SmoothUpsampling


class QatDecodersTask:
    """Both decoders, fake-quantised, from the latents of the frozen encoder."""

    bfloat16_on: tuple[str, ...] = ()

    def __init__(
        self,
        decoders: nn.ModuleDict,
        latents: Latents,
        train: Maps,
        val: Maps,
        settings: QatTraining,
        normalization: Normalization,
    ) -> None:
        self.normalization = normalization
        self.model, self.latents, self.train, self.val, self.settings = decoders, latents, train, val, settings
        self.train_samples = len(train)
        self.upsampling = SmoothUpsampling(decoders)
        self.upsampling.let_go()

    def hold(self) -> None:
        """Kernels that came interpolating or blind stay so; those of an imported decoder may be others."""
        self.upsampling.hold()

    def phase(self, step: int, steps: int) -> str:
        return phase_at(step, steps, self.settings.warmup)

    def enter(self, phase: str) -> None:
        set_phase(self.model, phase)

    def prefetch(self, samples: Tensor) -> None:
        self.train.prefetch_seismic(samples)

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        latent, velocity = self.latents.train_of(samples), self.train.velocity(samples)
        loss = velocity_loss(self.model["velocity"](latent), velocity, self.settings, draws)
        return loss + self._seismic_loss(latent, self.train, samples)

    def validate(self, batch: int) -> float:
        with evaluation(self.model):
            return mean_over(len(self.val), batch, self._held_out_loss)

    def _held_out_loss(self, samples: Tensor) -> Tensor:
        latent, velocity = self.latents.val_of(samples), self.val.velocity(samples)
        loss = reconstruction_loss(self.model["velocity"](latent), velocity, self.settings)
        return loss + self._seismic_loss(latent, self.val, samples)

    def _seismic_loss(self, latent: Tensor, maps: Maps, samples: Tensor) -> Tensor:
        return gather_loss(self.model["seismic"](latent), maps.seismic(samples), self.settings, self.normalization)


class QatDiffusionTask(DiffusionTask):
    """Diffusion U-Net, fake-quantised.

    A share of its targets may be the outputs of the float U-Net, as it is when the task is made (Hinton et al. 2015;
    for quantised students Polino et al. 2018). The data's own targets are mostly noise, which a short training at a
    large rate begins to learn by heart; the float model's are not.
    """

    bfloat16_on: tuple[str, ...] = ()

    def __init__(
        self, unet: nn.Module, diffusion: LatentDiffusion, latents: Latents, settings: QatDiffusionTraining
    ) -> None:
        super().__init__(unet, diffusion, latents)
        self.settings = settings
        self.teacher: nn.Module | None = None
        if settings.distillation:
            self.teacher = deepcopy(unet).requires_grad_(False)
            set_phase(self.teacher, "float")

    def phase(self, step: int, steps: int) -> str:
        return phase_at(step, steps, self.settings.warmup)

    def enter(self, phase: str) -> None:
        set_phase(self.model, phase)

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        x_start, time, noise = self.noised(self.latents.train_of(samples), draws)
        x_t, target = self.diffusion.q_sample(x_start, time, noise), self.diffusion.target(x_start, time, noise)
        if self.teacher is not None:
            with torch.no_grad():
                target = torch.lerp(target, self.teacher(x_t, time), self.settings.distillation)
        return self.diffusion.weighted_error(self.model(x_t, time), target, time)
