"""What both QAT stages share: the generator of the run, with only the trained parts in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from ubq.config.schema import Config, QatTraining
from ubq.distributed import decided_by_first
from ubq.i18n import gettext as _
from ubq.stages.base import StageContext
from ubq.stages.floatmodel import normalization_of, sizes_of, trained_parts
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ubq.quant.generator import Generator, Recipe
    from ubq.quant.sensitivity import HeldOutInputs

QUANT_KEYS = (
    "quant.backend",
    "quant.scheme",
    "quant.ten_bit_io",
    "quant.keep_float",
    "quant.observer",
    "quant.decoder_observer",
    "quant.averaging_constant",
    "quant.percentile",
    "quant.max_quality_loss",
)
"""Keys of ``[quant]`` that decide the training of either stage."""
Settings = TypeVar("Settings", bound=QatTraining)
HELD_OUT_INPUTS = 4
"""Samples that the cost of quantising each layer is measured on: one evaluation a layer."""


def recipe_of(config: Config, paths: RunPaths) -> Recipe:
    """Everything but the weights that decides the run's generator."""
    from ubq.quant.generator import Recipe

    sizes, ranges = sizes_of(config, paths), normalization_of(config, paths)
    return Recipe(sizes, ranges, config.quant, config.sampling, distilled=bool(config.distill.steps))


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
    for name, module in trained_parts(config, paths, parts, torch.device("cpu"), student=True).items():
        setattr(model, name, module)
    generator = deployable(model, recipe, keep_model=False)
    prepare_qat(generator, config.quant)
    for part in parts:
        getattr(generator, part).to(device)
    generator.sampler.to(device)
    return generator, recipe


def settings_for(model: nn.Module, settings: Settings) -> Settings:
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


def judge_within_budget(
    context: StageContext, generator: Generator, inputs: HeldOutInputs, parts: tuple[str, ...]
) -> None:
    """Put layers of a calibrated generator back into float until ``quant.max_quality_loss`` holds."""
    from ubq.quant.prepare import restore_float
    from ubq.quant.sensitivity import layers_to_keep_float

    names = decided_by_first(lambda: list(layers_to_keep_float(generator, context.config.quant, inputs, parts)))
    restore_float(generator, names)
    if names:
        context.log(_("left in float by quant.max_quality_loss: {names}").format(names=", ".join(names)))


def write_stage_analysis(
    context: StageContext, generator: Generator, recipe: Recipe, inputs: HeldOutInputs, parts: tuple[str, ...]
) -> None:
    """``quantization_analysis.txt`` and ``.json`` of a QAT stage, with what each of its layers costs."""
    from ubq.quant.analysis import as_json, count_model, write_analysis
    from ubq.quant.sensitivity import layer_sensitivities

    costs = layer_sensitivities(generator, inputs, parts)
    document = as_json(count_model(generator, recipe.quant), None, recipe, costs)
    write_analysis(context.paths.checkpoints(context.stage), document)
    if costs:
        context.log(_("quantisation costs most in {names}").format(names=", ".join(document["worst_layers"])))
