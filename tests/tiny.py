"""Small random models in both variants, with BatchNorms that have seen something."""

from __future__ import annotations

import torch
from torch import nn

from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.normalization import Normalization
from ubq.model import ModelSizes, UBDiff
from ubq.quant.generator import Generator, Recipe, deployable
from ubq.quant.phases import set_phase
from ubq.quant.prepare import calibrate, prepare_qat

STEPS = 5


def tiny_sizes(variant: str) -> ModelSizes:
    """All 75 Conv1d and every decoder layer, in small widths."""
    return ModelSizes(
        variant=variant,  # type: ignore[arg-type]
        encoder_dim=16,
        dim_mults=(1, 2, 2, 2),
        diffusion_steps=16,
        encoder_dims=(4, 4, 8, 8),
        velocity_latent=8,
        velocity_dims=(4, 4, 8, 8, 16),
        seismic_latent=40,
        seismic_samples=30,
        receivers=7,
    )


def tiny_model(variant: str, seed: int = 0) -> UBDiff:
    torch.manual_seed(seed)
    model = UBDiff(tiny_sizes(variant)).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return model


def tiny_recipe(variant: str, quant: QuantConfig | None = None, export: ExportConfig | None = None) -> Recipe:
    ranges = Normalization(-25.0, 50.0, 1500.0, 4500.0)
    return Recipe(tiny_sizes(variant), ranges, quant or QuantConfig(), export or ExportConfig(steps=STEPS))


def calibrated(model: UBDiff, recipe: Recipe, phase: str = "frozen") -> Generator:
    """Fake-quantised, ranges measured on the sampler's own way."""
    generator = deployable(model, recipe)
    prepare_qat(generator, recipe.quant)
    torch.manual_seed(1)
    calibrate(generator, [lambda: generator(8)] * 2)
    set_phase(generator, phase)
    return generator.eval()


VARIANTS = ("paper", "fork")
