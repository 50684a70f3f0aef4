"""qat-diffusion: quantisation-aware training of the U-Net, and the whole quantised generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config, QatTraining
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.diffusion import UNET_KEYS
from ubq.stages.floatmodel import UNET
from ubq.stages.latents import load_latents
from ubq.stages.loop import run_training
from ubq.stages.paths import RunPaths
from ubq.stages.qat import QUANT_KEYS, batches_of, finish, qat_generator, settings_for
from ubq.stages.qat_decoders import FINAL as FINAL_DECODERS
from ubq.stages.qat_decoders import QatDecoders

if TYPE_CHECKING:
    from torch import Tensor

    from ubq.model import GaussianDiffusion
    from ubq.quant.generator import Generator

FINAL = "final_qat_model.pt"


class QatDiffusion(Stage):
    """Reads the float U-Net, the latents and the quantised decoders, makes ``final_qat_model.pt``."""

    name = "qat-diffusion"
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
        from ubq.quant.prepare import calibrate
        from ubq.training.qat import QatDiffusionTask

        config, paths = context.config, context.paths
        device = use_device(config)
        generator, recipe = qat_generator(config, paths, UNET, device)
        settings = settings_for(generator.unet, config.qat.diffusion)
        latents = load_latents(paths, device)
        sizes = recipe.sizes
        diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant).to(device)
        passes = calibration_passes(generator, diffusion, latents.train, settings, config.seed)
        calibrate(generator.unet, passes)
        task = QatDiffusionTask(generator.unet, diffusion, latents, settings)
        run_training(context, task, settings, device)
        calibrate(generator.unet, passes)  # on the averaged weights, which are what is exported
        finish(generator.unet)
        load_parts(generator, paths.checkpoints(QatDecoders.name) / FINAL_DECODERS)
        save_qat(paths.checkpoints(self.name) / FINAL, generator, recipe)


def calibration_passes(
    generator: Generator, diffusion: GaussianDiffusion, latents: Tensor, settings: QatTraining, seed: int
) -> list[Callable[[], Tensor]]:
    """U-Net evaluations on noised training latents, at the time steps that the sampler visits, equally often."""
    from ubq.training.randomness import SampleDraws

    times = generator.sampler.times

    def forward(first: int, latent: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            draws = SampleDraws(seed, "calibration", range(first, first + len(latent)))
            time = times[draws.integers(len(times)).to(times.device)].to(latent.device)
            noise = draws.normal(1, latent.shape[1]).to(latent.device)
            return generator.unet(diffusion.q_sample(latent[:, None, :], time, noise), time)

        return run

    return [forward(i * settings.batch_size, b) for i, b in enumerate(batches_of(latents, settings))]
