"""A calibrated generator with small widths whose pairs have the real shapes, as exported files need them."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny import calibrated, tiny_sizes

from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.normalization import Normalization
from ubq.model import UBDiff
from ubq.quant.generator import Generator, Recipe
from ubq.runtime.processor import exact_engine

SIZES = replace(tiny_sizes("paper"), seismic_latent=8, seismic_depth=1, seismic_samples=1000, receivers=70)


def tiny_backend() -> str:
    """An integer engine that this machine has and is exact with."""
    return exact_engine("x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack")


def tiny_recipe(solver: str = "dpmpp2m", steps: int = 4) -> Recipe:
    """Recipe of ``SIZES``; the file also offers 2 steps and, for ddpm, all 16."""
    return Recipe(
        sizes=SIZES,
        normalization=Normalization(-26.48, 52.32, 1500, 4500),
        quant=QuantConfig(backend=tiny_backend()),  # type: ignore[arg-type]
        export=ExportConfig(formats=("torchscript",), solver=solver, steps=steps, step_choices=(2,)),  # type: ignore[arg-type]
    )


def tiny_generator(recipe: Recipe) -> Generator:
    """Random weights, fake-quantised and calibrated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return calibrated(UBDiff(recipe.sizes).eval(), recipe)
