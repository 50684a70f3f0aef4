"""What both QAT stages share: the generator of the run, with only the trained parts in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ubq.config.schema import Config, QatTraining
from ubq.stages.floatmodel import normalization_of, sizes_of, trained_parts
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ubq.quant.generator import Generator, Recipe

QUANT_KEYS = (
    "quant.backend",
    "quant.scheme",
    "quant.keep_float",
    "quant.observer",
    "quant.averaging_constant",
    "quant.percentile",
    "quant.max_quality_loss",
)
"""Keys of ``[quant]`` that decide the training of either stage."""


def recipe_of(config: Config, paths: RunPaths) -> Recipe:
    """Everything but the weights that decides the run's generator."""
    from ubq.quant.generator import Recipe

    return Recipe(sizes_of(config, paths), normalization_of(config, paths), config.quant, config.export)


def qat_generator(
    config: Config, paths: RunPaths, parts: tuple[str, ...], device: torch.device
) -> tuple[Generator, Recipe]:
    """The rewritten, fake-quantised generator; all but ``parts`` on the meta device, without memory."""
    import torch

    from ubq.model import UBDiff
    from ubq.quant.generator import deployable
    from ubq.quant.prepare import prepare_qat

    recipe = recipe_of(config, paths)
    with torch.device("meta"):
        model = UBDiff(recipe.sizes)
    for name, module in trained_parts(config, paths, parts, torch.device("cpu")).items():
        setattr(model, name, module)
    generator = deployable(model, recipe, keep_model=False)
    prepare_qat(generator, config.quant)
    for part in parts:
        getattr(generator, part).to(device)
    generator.sampler.to(device)
    return generator, recipe


def settings_for(model: nn.Module, settings: QatTraining) -> QatTraining:
    """The stage's settings; nothing is trained where the configuration quantises none of the layers."""
    from ubq.quant.phases import quant_layers

    return settings if quant_layers(model) else settings.model_copy(update={"epochs": 0, "steps": 0})


def finish(model: nn.Module) -> None:
    """Leave a trained model as it is exported: every range frozen, evaluation mode."""
    from ubq.quant.phases import set_phase

    set_phase(model, "frozen")
    model.eval()


def batches_of(latents: Tensor, settings: QatTraining) -> Iterator[Tensor]:
    """Calibration batches of training latents, (B, L)."""
    yield from latents.split(settings.batch_size)[: settings.calibration_batches]
