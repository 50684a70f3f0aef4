"""qat-diffusion: quantisation-aware training of the U-Net, and the whole quantised generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config, QatTraining
from ubq.i18n import gettext as _
from ubq.model.parts import UNET
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.diffusion import UNET_KEYS
from ubq.stages.distill import teacher_ends
from ubq.stages.loop import run_training, shards
from ubq.stages.maps import open_latents
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
    import torch
    from torch import Tensor

    from ubq.model import GaussianDiffusion
    from ubq.quant.generator import Generator, Recipe
    from ubq.quant.sensitivity import HeldOutInputs

    Trained = tuple[Generator, Recipe, QatTraining, HeldOutInputs]

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
        "distill",
        "export.solver",
        "export.steps",
        "export.step_choices",
        *QUANT_KEYS,
        *UNET_KEYS,
    )
    after = ("train-autoencoder", "train-diffusion", "import", "distill", "qat-decoders")

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / FINAL]

    def run(self, context: StageContext) -> None:
        from ubq.quant.checkpoint import load_parts, save_qat
        from ubq.quant.generator import decoders
        from ubq.quant.prepare import calibrate

        config, paths = context.config, context.paths
        device = use_device(config)
        train = _train_distilled if config.distill.steps else _train
        generator, recipe, settings, inputs = train(context, device, shards(context))
        load_parts(generator, paths.checkpoints(QatDecoders.name) / FINAL_DECODERS)
        generator.to(device)
        latents = open_latents(paths, device).train
        calibrate(decoders(generator), decoder_passes(generator, latents, settings, config.seed))
        finish(generator)
        metadata = {"run": paths.root.name, "family": config.data.family}
        save_qat(paths.checkpoints(self.name) / FINAL, generator, recipe, metadata=metadata)
        write_stage_analysis(context, generator, recipe, inputs, TRAINED)


def _train(context: StageContext, device: torch.device, shard: bool) -> Trained:
    """The U-Net trained towards its data, on noised latents."""
    from ubq.model import GaussianDiffusion
    from ubq.quant.prepare import calibrate
    from ubq.training.qat import QatDiffusionTask

    config, paths = context.config, context.paths
    generator, recipe = qat_generator(config, paths, UNET, device)
    settings = settings_for(generator.unet, config.qat.diffusion)
    latents = open_latents(paths, device)
    sizes = recipe.sizes
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant).to(device)
    passes = calibration_passes(generator, diffusion, latents.train, settings, config.seed)
    calibrate(generator.unet, passes)
    inputs = held_out_inputs(generator, diffusion, latents.val[:HELD_OUT_INPUTS], config.seed)
    judge_within_budget(context, generator, inputs, TRAINED)
    task = QatDiffusionTask(generator.unet, diffusion, latents, settings)
    run_training(context, task, settings, device, unet_evaluations=1, shard=shard)
    calibrate(generator.unet, passes)  # on the averaged weights, which are what is exported
    finish(generator.unet)
    return generator, recipe, settings, inputs


def _train_distilled(
    context: StageContext, device: torch.device, shard: bool
) -> tuple[Generator, Recipe, QatTraining, HeldOutInputs]:
    """The student trained towards its float self and its teacher, on the states that it meets; kept if that helps."""
    from ubq.training.distill import QatDistillTask, ends_of

    config, paths = context.config, context.paths
    train, held_out = teacher_ends(config, paths, device)

    def calibrated() -> tuple[Generator, Recipe, HeldOutInputs]:
        generator, recipe = qat_generator(config, paths, UNET, device)
        calibrate_on_way(generator, train.noise, config.qat.diffusion)
        inputs = inputs_on_way(generator, held_out.noise[:HELD_OUT_INPUTS])
        judge_within_budget(context, generator, inputs, TRAINED)
        return generator, recipe, inputs

    generator, recipe, inputs = calibrated()
    settings = settings_for(generator.unet, config.qat.diffusion)
    float_ends = ends_of(generator, held_out.noise)  # the layers are in float yet
    untrained = end_error(generator, held_out.noise, float_ends)
    share = settings.distillation
    task = QatDistillTask(
        generator.unet,
        generator.sampler,
        train.towards(ends_of(generator, train.noise), share) if share else train,
        held_out.towards(float_ends, share),
        settings,
    )
    run_training(context, task, settings, device, unet_evaluations=config.distill.steps, shard=shard)
    calibrate_on_way(generator, train.noise, settings)  # on the averaged weights, which are what is exported
    trained = end_error(generator, held_out.noise, float_ends)
    context.event("end_error", calibrated=untrained, trained=trained)
    shown = _("{count} held-out latents end {trained:.2f} % from the float U-Net's, {untrained:.2f} % without training")
    context.log(shown.format(count=len(float_ends), trained=100 * trained, untrained=100 * untrained))
    if trained > untrained:
        context.log(_("the calibrated weights are kept: training moved them further than rounding does"))
        del generator, task
        generator, recipe, inputs = calibrated()
    finish(generator.unet)
    return generator, recipe, settings, inputs


def calibrate_on_way(generator: Generator, noise: Tensor, settings: QatTraining) -> None:
    """Measure the U-Net's activation ranges on its own way from noise (N, 1, L)."""
    from ubq.quant.prepare import calibrate

    def forward(part: Tensor) -> Callable[[], Tensor]:
        return lambda: generator.sample(part, part.new_empty(0), 0)

    calibrate(generator.unet, [forward(part) for part in batches_of(noise, settings)])


def inputs_on_way(generator: Generator, noise: Tensor) -> HeldOutInputs:
    """The states that the float U-Net meets from noise (B, 1, L), and the latents that it ends at."""
    import torch

    from ubq.quant.phases import phase_set
    from ubq.quant.sensitivity import HeldOutInputs
    from ubq.training.distill import way_of

    with torch.no_grad(), phase_set(generator.unet, "float"):
        latents, met = way_of(generator.unet, generator.sampler, noise)
    return HeldOutInputs(torch.cat([x for x, _time in met]), torch.cat([time for _x, time in met]), latents)


def end_error(generator: Generator, noise: Tensor, latents: Tensor) -> float:
    """|z - z'| / |z'| of what the quantised U-Net makes of noise (N, 1, L) and latents z' of the same noise."""
    from ubq.quant.phases import phase_set
    from ubq.training.distill import ends_of

    with phase_set(generator.unet, "frozen"):
        generator.unet.eval()
        return float((ends_of(generator, noise) - latents).norm() / latents.norm())


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
