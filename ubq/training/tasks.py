"""What each training stage trains: the loss of a batch and the loss on held-out samples.

Shapes: B batch, L latent length. Velocity (B, 1, 70, 70) and seismic (B, 5, 1000, 70) are normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from ubq.config.schema import (
    AutoencoderTraining,
    GatherTraining,
    ReconstructionTraining,
    SeismicTraining,
    VelocityTraining,
)
from ubq.data.normalization import Normalization
from ubq.training.latents import Latents, Maps
from ubq.training.modules import Autoencoder
from ubq.training.randomness import SampleDraws
from ubq.training.shared_batch import whole_batch
from ubq.training.sharpness import patch_loss
from ubq.training.upsampling import SmoothUpsampling

VALIDATION_SAMPLES = 256
"""Held-out samples a validation looks at; the first of them, always the same."""
BFLOAT16_CHANNELS = 128
"""Channels of a U-Net's first level from which bfloat16 is faster on a CPU that has it
(studies/training_precision.md)."""
MOST_DRAWS = 16
"""Noises a validation of the U-Net adds to the same latent, where few are held out."""


def reconstruction_loss(predicted: Tensor, target: Tensor, settings: ReconstructionTraining) -> Tensor:
    """Weighted mean absolute and mean squared error, as UB-Diff trains its decoders."""
    difference = predicted - target
    return settings.l1_weight * difference.abs().mean() + settings.l2_weight * difference.square().mean()


def amplitude_error(predicted: Tensor, target: Tensor, normalization: Normalization) -> Tensor:
    """Squared relative L2 of physical amplitudes, each times its time, mean over the gathers.

    The logarithm that gathers are scaled by weighs a small error of a strong arrival as lightly as that of a weak one;
    whether a pair obeys the wave equation is a matter of squared amplitudes. The gain by time is what seismic sections
    are shown with against spherical spreading: late samples hold reflections alone.

    Args:
        predicted, target: (B, S, T, R), log-normalised.
        normalization: of both.
    """
    gain_T1 = torch.linspace(0.0, 1.0, target.shape[2], device=target.device)[:, None]
    amplitude = normalization.unseismic(target) * gain_T1
    wrong = normalization.unseismic(predicted.float()) * gain_T1 - amplitude
    energy = amplitude.square().flatten(1).sum(1).clamp(min=1e-12)
    return (wrong.square().flatten(1).sum(1) / energy).mean()


def gather_loss(predicted: Tensor, target: Tensor, settings: GatherTraining, normalization: Normalization) -> Tensor:
    """Reconstruction loss of log-normalised gathers and, by its weight, the error of their physical amplitudes."""
    loss = reconstruction_loss(predicted, target, settings)
    if settings.amplitude_weight:
        loss = loss + settings.amplitude_weight * amplitude_error(predicted, target, normalization)
    return loss


def velocity_loss(predicted: Tensor, target: Tensor, settings: VelocityTraining, draws: SampleDraws) -> Tensor:
    """Reconstruction loss of normalised velocity maps and, by its weight, the distance of their patches."""
    loss = reconstruction_loss(predicted, target, settings)
    if settings.patch_weight:
        patches = patch_loss(whole_batch(predicted), whole_batch(target), draws.of_batch())
        loss = loss + settings.patch_weight * patches
    return loss


def held_out(samples: int, batch: int) -> Iterator[Tensor]:
    """Sample numbers of a validation, in batches."""
    yield from torch.arange(min(samples, VALIDATION_SAMPLES)).split(batch)


def mean_over(samples: int, batch: int, loss: Callable[[Tensor], Tensor]) -> float:
    """Mean of a batch loss over the held-out samples."""
    total, count = 0.0, 0
    for part in held_out(samples, batch):
        total += float(loss(part)) * len(part)
        count += len(part)
    return total / count


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode inside the block; every layer's own mode comes back after it."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


class _FloatTask:
    """A task without quantisation phases; the model is in evaluation mode while it is validated."""

    model: nn.Module
    freeze_statistics = 1.0

    def phase(self, step: int, steps: int) -> str:
        return "train" if step < self.freeze_statistics * steps else "frozen"

    def prefetch(self, samples: Tensor) -> None:
        """Maps and latents are small: there is nothing to read ahead."""

    def enter(self, phase: str) -> None:
        """In the phase ``frozen`` a sample no longer depends on the others of its batch.

        Where a layer sees one value a channel and sample, statistics of small batches are so noisy that they
        bound the precision of the latents.
        """
        self.model.train()
        for layer in self.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.train(phase != "frozen")

    def hold(self) -> None:
        """Every weight is free."""


class AutoencoderTask(_FloatTask):
    """Encoder and velocity decoder: velocity -> latent -> velocity."""

    bfloat16_on: tuple[str, ...] = ("cuda", "cpu")

    def __init__(self, model: Autoencoder, train: Maps, val: Maps, settings: AutoencoderTraining) -> None:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        self.model: Autoencoder = model
        self.train, self.val, self.settings = train, val, settings
        self.train_samples = len(train)
        self.freeze_statistics = settings.freeze_statistics
        self.upsampling = SmoothUpsampling(model) if settings.smooth_upsampling else None
        self.hold()

    def hold(self) -> None:
        """Kernels that upsample keep to interpolating where that is asked for."""
        if self.upsampling is not None:
            self.upsampling.hold()

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        velocity = self.train.velocity(samples)
        return velocity_loss(self.model(velocity), velocity, self.settings, draws)

    def validate(self, batch: int) -> float:
        def loss(samples: Tensor) -> Tensor:
            velocity = self.val.velocity(samples)
            return reconstruction_loss(self.model(velocity), velocity, self.settings)

        with evaluation(self.model):
            return mean_over(len(self.val), batch, loss)


class SeismicTask(_FloatTask):
    """Seismic decoder: latent of the frozen encoder -> seismic."""

    bfloat16_on: tuple[str, ...] = ("cuda",)

    def __init__(
        self,
        model: nn.Module,
        latents: Latents,
        train: Maps,
        val: Maps,
        settings: SeismicTraining,
        normalization: Normalization,
    ) -> None:
        self.model, self.latents, self.train, self.val, self.settings = model, latents, train, val, settings
        self.normalization = normalization
        self.train_samples = len(train)
        self.freeze_statistics = settings.freeze_statistics

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        predicted = self.model(self.latents.train_of(samples))
        return gather_loss(predicted, self.train.seismic(samples), self.settings, self.normalization)

    def prefetch(self, samples: Tensor) -> None:
        self.train.prefetch_seismic(samples)

    def validate(self, batch: int) -> float:
        def loss(samples: Tensor) -> Tensor:
            predicted = self.model(self.latents.val_of(samples))
            return gather_loss(predicted, self.val.seismic(samples), self.settings, self.normalization)

        with evaluation(self.model):
            return mean_over(len(self.val), batch, loss)


class LatentDiffusion(Protocol):
    """The diffusion process a U-Net learns to reverse (``ubq.model.GaussianDiffusion``)."""

    steps: int

    def q_sample(self, x_start: Tensor, time: Tensor, noise: Tensor) -> Tensor: ...
    def target(self, x_start: Tensor, time: Tensor, noise: Tensor) -> Tensor: ...
    def weighted_error(self, prediction: Tensor, target: Tensor, time: Tensor) -> Tensor: ...
    def loss(self, unet: nn.Module, x_start: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Mean weighted loss; x_start and noise (B, 1, L), time (B,) int64."""
        ...


class DiffusionTask(_FloatTask):
    """Diffusion U-Net over the latents of all training maps, also of those without gathers.

    Args:
        wide: whether its products are large enough for bfloat16 to pay on a CPU.
    """

    bfloat16_on: tuple[str, ...] = ("cuda",)

    def __init__(self, unet: nn.Module, diffusion: LatentDiffusion, latents: Latents, wide: bool = False) -> None:
        self.model, self.diffusion, self.latents = unet, diffusion, latents
        if wide:
            self.bfloat16_on = (*self.bfloat16_on, "cpu")
        self.train_samples = len(latents.train)

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        return self._loss(self.latents.train_of(samples), draws)

    def validate(self, batch: int) -> float:
        def loss(samples: Tensor) -> Tensor:
            # the same noise and time steps at every validation, so that its changes are the model's
            draws = SampleDraws(0, "validation", samples.tolist())
            return self._loss(self.latents.val_of(samples % len(self.latents.val)), draws)

        with evaluation(self.model):
            return mean_over(MOST_DRAWS * len(self.latents.val), batch, loss)

    def _loss(self, latent: Tensor, draws: SampleDraws) -> Tensor:
        return self.diffusion.loss(self.model, *self.noised(latent, draws))

    def noised(self, latent: Tensor, draws: SampleDraws) -> tuple[Tensor, Tensor, Tensor]:
        """Of latents (B, L): x_start (B, 1, L), a time (B,) and a noise (B, 1, L) for each."""
        time = draws.time_steps(self.diffusion.steps).to(latent.device, non_blocking=True)
        noise = draws.normal(1, latent.shape[1]).to(latent.device, non_blocking=True)
        return latent[:, None, :], time, noise
