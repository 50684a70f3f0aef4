"""distill: the U-Net learns to draw a latent in a few sampling steps, in float."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.distributed import decided_by_first
from ubq.model.parts import UNET
from ubq.stages.base import Stage, StageContext, Stopped
from ubq.stages.device import use_device
from ubq.stages.diffusion import UNET_KEYS
from ubq.stages.floatmodel import STUDENT, state_of, trained_parts
from ubq.stages.loop import built_on, run_training, shards
from ubq.stages.paths import RunPaths
from ubq.stages.qat import recipe_of
from ubq.training.files import load_tensors, save_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ubq.quant.generator import Generator, Recipe
    from ubq.training.distill import Ends

TEACHER = "teacher.pt"
"""Where the teacher ends, in the order of the noises; whole blocks of them while it is being drawn."""


class Distill(Stage):
    """Reads the float U-Net, makes ``student.pt``, which takes its place."""

    name = "distill"
    trains = True
    reads = ("seed", "device", "distill", *UNET_KEYS)
    after = ("train-diffusion", "import")

    def applies(self, config: Config) -> bool:
        return bool(config.distill.steps)

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        folder = paths.checkpoints(self.name)
        return [folder / STUDENT, folder / TEACHER]

    def run(self, context: StageContext) -> None:
        from ubq.training.distill import DistillTask
        from ubq.training.tasks import BFLOAT16_CHANNELS

        config, paths = context.config, context.paths
        device = use_device(config)
        shard = shards(context)
        parts = trained_parts(config, paths, UNET, built_on(device, shard))
        recipe = recipe_of(config, paths)
        decided_by_first(lambda: draw_teacher(context, parts["unet"], recipe, device))
        train, held_out = teacher_ends(config, paths, device)
        sampler = generator_around(parts["unet"], recipe, device).sampler
        wide = recipe.sizes.unet_dim >= BFLOAT16_CHANNELS
        task = DistillTask(parts["unet"], sampler, train, held_out, wide=wide)
        evaluations = config.distill.steps
        run_training(context, task, config.distill.training, device, unet_evaluations=evaluations, shard=shard)
        save_tensors(paths.checkpoints(self.name) / STUDENT, state_of(parts))


def generator_around(unet: nn.Module, recipe: Recipe, device: torch.device) -> Generator:
    """A float generator of a U-Net as it is; its decoders hold no memory."""
    import torch

    from ubq.model import UBDiff
    from ubq.quant.generator import Generator

    with torch.device("meta"):
        model = UBDiff(recipe.sizes)
    model.unet = unet  # type: ignore[assignment]
    generator = Generator(model, recipe)
    generator.sampler.to(device)
    return generator.eval()


def draw_teacher(context: StageContext, unet: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """Follow the teacher from every noise, from where an earlier start of the stage left off.

    Raises:
        Stopped: a stop was requested; what is drawn is saved.
    """
    import torch

    from ubq.training.distill import AT_A_TIME, HELD_OUT, ends_of, start_noise

    config, settings = context.config, context.config.distill
    file = context.paths.checkpoints(context.stage) / TEACHER
    total = HELD_OUT + settings.trajectories
    key = _teacher_key(config, unet)
    stored = load_tensors(file) if file.is_file() else {}
    known = (
        stored["latents"] if stored and torch.equal(stored["of"], key) else torch.empty(0, 1, recipe.sizes.encoder_dim)
    )
    if len(known) >= total:
        return
    parts = list(
        known.split(AT_A_TIME)[: len(known) // AT_A_TIME]
    )  # a last, smaller block would have other last digits
    sampling = config.export.model_copy(
        update={"solver": settings.solver, "steps": settings.teacher_steps, "step_choices": ()}
    )
    teacher = generator_around(unet, replace(recipe, export=sampling, distilled=False), device)
    saved = time.monotonic()

    def save() -> None:
        save_tensors(file, {"of": key, "latents": torch.cat(parts)})

    for first in range(AT_A_TIME * len(parts), total, AT_A_TIME):
        context.progress(first, total, phase="teacher")
        if context.stop_requested():
            if parts:
                save()
            raise Stopped
        samples = range(first, min(first + AT_A_TIME, total))
        parts.append(ends_of(teacher, start_noise(config.seed, samples, recipe.sizes.encoder_dim).to(device)).cpu())
        minutes = config.run.checkpoint_minutes
        if minutes and time.monotonic() - saved >= 60 * minutes:
            save()
            saved = time.monotonic()
    save()


def _teacher_key(config: Config, unet: nn.Module) -> Tensor:
    """What decides where the teacher ends, but for the number of noises: () int64."""
    import hashlib

    import torch

    from ubq.training.randomness import key

    weights = hashlib.sha256()
    for tensor in unet.state_dict().values():
        weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    settings = config.distill
    return torch.tensor(key(config.seed, settings.solver, settings.teacher_steps, weights.hexdigest()))


def teacher_ends(config: Config, paths: RunPaths, device: torch.device) -> tuple[Ends, Ends]:
    """Training and held-out noises with the latents that the teacher leads them to, on the training device."""
    from ubq.training.distill import HELD_OUT, Ends, start_noise

    total = HELD_OUT + config.distill.trajectories
    latents = load_tensors(paths.checkpoints(Distill.name) / TEACHER)["latents"][:total].clone().to(device)
    noise = start_noise(config.seed, range(total), latents.shape[-1]).to(device)
    return Ends(noise[HELD_OUT:], latents[HELD_OUT:]), Ends(noise[:HELD_OUT], latents[:HELD_OUT])
