"""A generator of the full depth and small widths, with random weights: quantised and calibrated in a second."""

from __future__ import annotations

import torch

from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.normalization import Normalization
from ubq.model import ModelSizes, UBDiff
from ubq.quant.generator import Generator, Recipe, deployable
from ubq.quant.prepare import calibrate, prepare_qat

SIZES = ModelSizes(
    encoder_dim=16,
    unet_dim=8,
    dim_mults=(1, 2, 2, 2),
    norm_groups=4,
    attention_heads=2,
    attention_dim_head=4,
    diffusion_steps=16,
    encoder_dims=(4, 4, 8, 8),
    velocity_latent=8,
    velocity_dims=(4, 8, 8, 8, 8),
    seismic_latent=8,
    seismic_depth=1,
    seismic_heads=2,
    seismic_mlp_ratio=2,
)


def tiny_backend() -> str:
    """An integer engine that this machine has."""
    return "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"


def tiny_recipe(solver: str = "dpmpp2m", steps: int = 4) -> Recipe:
    """Recipe of ``SIZES``; further step counts 2 and, for ddpm, all 16."""
    return Recipe(
        sizes=SIZES,
        normalization=Normalization(-26.48, 52.32, 1500, 4500),
        quant=QuantConfig(backend=tiny_backend()),  # type: ignore[arg-type]
        export=ExportConfig(solver=solver, steps=steps, step_choices=(2,)),  # type: ignore[arg-type]
    )


def tiny_model(seed: int = 0) -> UBDiff:
    """The float model with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UBDiff(SIZES).eval()


def tiny_generator(recipe: Recipe, quantised: bool = True) -> Generator:
    """A generator of random weights, fake-quantised and calibrated unless told otherwise."""
    generator = deployable(tiny_model(), recipe)
    if not quantised:
        return generator
    prepare_qat(generator, recipe.quant)
    draws = torch.Generator().manual_seed(1)
    count = recipe.sizes.diffusion_steps

    def one_pass() -> None:
        x = torch.randn(4, 1, recipe.sizes.encoder_dim, generator=draws)
        generator.unet(x, torch.randint(count, (4,), generator=draws))
        generator.decode(x)

    calibrate(generator, [one_pass] * 4)
    return generator
