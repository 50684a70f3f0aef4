"""qat-diffusion: quantisation-aware training of the U-Net, and the whole quantised generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config, QatTraining
from ubq.model.parts import UNET
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.diffusion import UNET_KEYS
from ubq.stages.loop import run_training
from ubq.stages.paths import RunPaths
from ubq.stages.qat import (
    HELD_OUT_INPUTS,
    QUANT_KEYS,
    batches_of,
    finish,
    judge_within_budget,
    qat_generator,
    settings_for,
    write_stage_analysis,
)
from ubq.stages.qat_decoders import FINAL as FINAL_DECODERS
from ubq.stages.qat_decoders import QatDecoders

if TYPE_CHECKING:
    from torch import Tensor

    from ubq.model import GaussianDiffusion
    from ubq.quant.generator import Generator
    from ubq.quant.sensitivity import HeldOutInputs

FINAL = "final_qat_model.pt"
TRAINED = ("diffusion",)


class QatDiffusion(Stage):
    """Reads the float U-Net, the latents and the quantised decoders, makes ``final_qat_model.pt``."""

    name = "qat-diffusion"
    version = 4  # latents of maps without gathers too
    trains = True
    reads = (
        "seed",
        "device",
        "qat.diffusion",
        "quant.diffusion",
        "quant.convert_conv1d",
        "quant.time_tables",
        "export.solver",
        "export.steps",
        "export.step_choices",
        *QUANT_KEYS,
        *UNET_KEYS,
    )
    after = ("train-autoencoder", "train-diffusion", "import", "qat-decoders")

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / FINAL]

    def run(self, context: StageContext) -> None:
        from ubq.model import GaussianDiffusion
        from ubq.quant.checkpoint import load_parts, save_qat
        from ubq.quant.generator import decoders
        from ubq.quant.prepare import calibrate
        from ubq.training.latents import load_latents
        from ubq.training.qat import QatDiffusionTask

        config, paths = context.config, context.paths
        device = use_device(config)
        generator, recipe = qat_generator(config, paths, UNET, device)
        settings = settings_for(generator.unet, config.qat.diffusion)
        latents = load_latents(paths.latents, device)
        sizes = recipe.sizes
        diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant).to(device)
        passes = calibration_passes(generator, diffusion, latents.train, settings, config.seed)
        calibrate(generator.unet, passes)
        inputs = held_out_inputs(generator, diffusion, latents.val[:HELD_OUT_INPUTS], config.seed)
        judge_within_budget(context, generator, inputs, TRAINED)
        task = QatDiffusionTask(generator.unet, diffusion, latents, settings)
        run_training(context, task, settings, device)
        calibrate(generator.unet, passes)  # on the averaged weights, which are what is exported
        finish(generator.unet)
        load_parts(generator, paths.checkpoints(QatDecoders.name) / FINAL_DECODERS)
        generator.to(device)
        calibrate(decoders(generator), decoder_passes(generator, latents.train, settings, config.seed))
        finish(generator)
        metadata = {"run": paths.root.name, "family": config.data.family}
        save_qat(paths.checkpoints(self.name) / FINAL, generator, recipe, metadata=metadata)
        write_stage_analysis(context, generator, recipe, inputs, TRAINED)


def calibration_passes(
    generator: Generator, diffusion: GaussianDiffusion, latents: Tensor, settings: QatTraining, seed: int
) -> list[Callable[[], Tensor]]:
    """U-Net evaluations on noised training latents, at the time steps that the sampler visits, equally often."""
    from ubq.training.randomness import SampleDraws

    times = generator.sampler.times

    def forward(first: int, latent: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            draws = SampleDraws(seed, "calibration", range(first, first + len(latent)))
            time = times[draws.time_steps(len(times)).to(times.device)].to(latent.device)
            noise = draws.normal(1, latent.shape[1]).to(latent.device)
            return generator.unet(diffusion.q_sample(latent[:, None, :], time, noise), time)

        return run

    return [forward(i * settings.batch_size, b) for i, b in enumerate(batches_of(latents, settings))]


def held_out_inputs(generator: Generator, diffusion: GaussianDiffusion, latents: Tensor, seed: int) -> HeldOutInputs:
    """Held-out latents (B, L) noised at time steps spread over the sampler's way."""
    import torch

    from ubq.quant.sensitivity import HeldOutInputs
    from ubq.training.randomness import SampleDraws

    visited = generator.sampler.visited()
    chosen = torch.linspace(0, len(visited) - 1, len(latents)).round().long()
    time = visited[chosen.to(visited.device)].to(latents.device)
    noise = SampleDraws(seed, "probe", range(len(latents))).normal(1, latents.shape[1]).to(latents.device)
    x_start = latents[:, None, :]
    return HeldOutInputs(diffusion.q_sample(x_start, time, noise), time, x_start)


def decoder_passes(
    generator: Generator, latents: Tensor, settings: QatTraining, seed: int
) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """Decoder evaluations on training latents (N, L) and as many that the quantised U-Net has drawn.

    Drawn latents reach further than the encoder's where the U-Net is not perfect, and they are what
    the deployed decoders meet.
    """
    import torch

    from ubq.training.randomness import SampleDraws

    count = generator.sampler.steps[0]

    def forward(first: int, latent: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        @torch.no_grad()
        def run() -> tuple[Tensor, Tensor]:
            noise = SampleDraws(seed, "calibration-draw", range(first, first + len(latent)))
            draws = noise.normal(count, 1, latent.shape[1]).transpose(0, 1).to(latent.device)
            drawn = generator.sample(draws[0], draws[1:], count)
            return generator.decode_normalised(torch.cat((latent[:, None, :], drawn)))

        return run

    return [forward(i * settings.batch_size, b) for i, b in enumerate(batches_of(latents, settings))]
