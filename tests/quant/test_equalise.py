"""Hidden channels of one reach: the float model stays, 8 bits lose less, and grids before a ReLU begin at zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny import VARIANTS, calibrated, tiny_model, tiny_recipe
from torch import Tensor, nn

from ubq.config.schema import QuantConfig
from ubq.quant.equalise import WIDEST_FACTOR, equalise_channels
from ubq.quant.generator import Generator, deployable
from ubq.quant.layers import QuantLayer, StaticQuantLayer
from ubq.quant.phases import set_phase
from ubq.quant.prepare import calibrate, prepare_qat


def prepared(variant: str = "paper", quant: QuantConfig | None = None, spread: float = 1.0) -> Generator:
    """In phase float; hidden channels of the velocity decoder reach up to ``spread`` times as far as others."""
    recipe = tiny_recipe(variant, quant)
    model = tiny_model(variant)
    with torch.no_grad():
        for block in model.velocity_decoder.blocks:
            gains = torch.logspace(0, -torch.tensor(spread).log10(), len(block.norm.weight))
            block.norm.weight.mul_(gains)
            block.norm.bias.mul_(gains)
    generator = deployable(model, recipe)
    prepare_qat(generator, recipe.quant)
    return generator.eval()


def passes(generator: Generator) -> tuple[Tensor, list[Callable[[], Tensor]]]:
    latents = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    return latents, [lambda: maps(generator, latents)]


@torch.no_grad()
def maps(generator: Generator, latents: Tensor) -> Tensor:
    return generator.velocity_decoder(generator.velocity_projector(latents))


def reaches(generator: Generator, latents: Tensor) -> list[Tensor]:
    """Largest value of every hidden channel, layer by layer."""
    seen: list[Tensor] = []
    hooks = [
        block.activation.register_forward_hook(lambda _m, _i, output: seen.append(output.amax(dim=(0, 2, 3))))
        for block in generator.velocity_decoder.blocks
    ]
    maps(generator, latents)
    for hook in hooks:
        hook.remove()
    return seen


def weights(generator: Generator) -> list[Tensor]:
    return [m.weight.detach().clone() for m in generator.velocity_decoder.modules() if isinstance(m, QuantLayer)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_float_maps_stay_and_every_channel_reaches_as_far(variant: str) -> None:
    generator = prepared(variant, spread=10.0)
    latents, forward = passes(generator)
    exact, old, far = maps(generator, latents), weights(generator), reaches(generator, latents)
    equalise_channels(generator.velocity_decoder, forward)
    assert not any(torch.equal(a, b) for a, b in zip(old, weights(generator), strict=True))
    torch.testing.assert_close(maps(generator, latents), exact, rtol=0, atol=1e-5)
    for before, after in zip(far, reaches(generator, latents), strict=True):
        raised = after[before > before.max() / WIDEST_FACTOR]
        assert len(raised)
        torch.testing.assert_close(raised, before.max().expand_as(raised))


def test_8_bits_lose_less_of_channels_that_reach_differently_far() -> None:
    errors = {}
    for equalised in (False, True):
        generator = prepared(spread=20.0)
        latents, forward = passes(generator)
        exact = maps(generator, latents)
        if equalised:
            equalise_channels(generator.velocity_decoder, forward)
        calibrate(generator.velocity_decoder, forward)
        set_phase(generator.velocity_decoder, "frozen")
        errors[equalised] = float((maps(generator, latents) - exact).norm())
    assert errors[True] < 0.7 * errors[False]


@pytest.mark.parametrize(
    "quant",
    [
        QuantConfig(scheme="default"),  # one scale for all weights would pay for it
        QuantConfig(fold_batchnorm=False),
        QuantConfig(velocity=False),
        QuantConfig(keep_float=("velocity_decoder.*",)),
    ],
)
def test_what_cannot_be_scaled_stays_as_it_is(quant: QuantConfig) -> None:
    generator = prepared(quant=quant, spread=10.0)
    latents, forward = passes(generator)
    before, exact = weights(generator), maps(generator, latents)
    equalise_channels(generator.velocity_decoder, forward)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(generator), strict=True))
    assert torch.equal(maps(generator, latents), exact)


def test_transposed_convolutions_in_float_are_left_out_with_their_neighbours() -> None:
    generator = prepared(quant=QuantConfig(convert_transposed=False), spread=10.0)
    latents, forward = passes(generator)
    before = maps(generator, latents)
    equalise_channels(generator.velocity_decoder, forward)
    torch.testing.assert_close(maps(generator, latents), before, rtol=0, atol=1e-5)


def test_a_channel_that_nothing_reaches_is_not_blown_up() -> None:
    generator = prepared()
    latents, forward = passes(generator)
    layer = next(m for m in generator.velocity_decoder.blocks[1].modules() if isinstance(m, StaticQuantLayer))
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias[0] = -1e3
        own = layer.weight[0].clone()
    before = maps(generator, latents)
    equalise_channels(generator.velocity_decoder, forward)
    assert float(layer.weight[0].detach().abs().max() / own.abs().max()) <= 1.001 * WIDEST_FACTOR
    torch.testing.assert_close(maps(generator, latents), before, rtol=0, atol=1e-5)


def test_grids_before_a_relu_begin_at_zero_and_no_others_do() -> None:
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    blocks = list(generator.velocity_decoder.blocks)
    for block in (*blocks, generator.velocity_decoder.output):
        (layer,) = (m for m in block.modules() if isinstance(m, StaticQuantLayer))
        assert layer.output.rectified == (block in blocks)
        assert (int(layer.output.observer.grid()[1]) == 0) == (block in blocks)
    others = [
        m.output.rectified
        for part in (generator.unet, generator.seismic_decoder, generator.velocity_projector)
        for m in part.modules()
        if isinstance(m, StaticQuantLayer)
    ]
    assert others
    assert not any(others)


def test_a_batchnorm_before_the_relu_keeps_what_is_negative() -> None:
    generator = prepared(quant=QuantConfig(fold_batchnorm=False))
    layers = [m for m in generator.velocity_decoder.modules() if isinstance(m, StaticQuantLayer)]
    assert layers
    assert not any(m.output.rectified for m in layers)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in generator.modules())
