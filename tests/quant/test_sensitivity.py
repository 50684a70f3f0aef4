"""Ranking layers by the harm of quantising them, and staying within a budget."""

from __future__ import annotations

import statistics

import pytest
import torch
from tiny import calibrated, tiny_model, tiny_recipe

from ubq.config.schema import QuantConfig
from ubq.quant.analysis import count_model
from ubq.quant.generator import Generator
from ubq.quant.phases import phase_set, quant_layers
from ubq.quant.prepare import calibrate, prepare_qat, restore_float
from ubq.quant.sensitivity import HeldOutInputs, as_table, layer_sensitivities, layers_to_keep_float, part_error

HARMED = "unet.downs.1.block1.conv1"


def probe() -> HeldOutInputs:
    torch.manual_seed(4)
    return HeldOutInputs(torch.randn(4, 1, 16), torch.tensor([15, 14, 5, 0]), torch.rand(4, 1, 16) * 2 - 1)


@pytest.fixture
def generator() -> Generator:
    """Calibrated, with one layer whose output grid is far too coarse."""
    made = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    quant_layers(made)[HARMED].get_submodule("output.observer").high.mul_(1000)
    return made


def test_the_harmed_layer_comes_first(generator: Generator) -> None:
    before = {n: layer.phase for n, layer in quant_layers(generator).items()}
    ranked = layer_sensitivities(generator, probe(), worst=3)
    unet = [s for s in ranked if s.part == "diffusion"]
    assert unet[0].name == HARMED
    assert unet[0].sqnr_db == min(s.sqnr_db for s in unet)
    assert unet[0].alone > 2 * unet[1].alone
    assert unet[0].given_back is not None
    assert unet[0].given_back > 0
    assert sum(s.given_back is not None for s in unet) == 3
    assert [s.alone for s in ranked] == sorted((s.alone for s in ranked), reverse=True)
    assert {s.name for s in unet if s.measured} == {s.name for s in unet if s.given_back is not None}
    assert all(s.sqnr_db > 20 for s in unet[1:]), "eight bits give about 30 to 50 dB"
    assert {n: layer.phase for n, layer in quant_layers(generator).items()} == before
    table = as_table(ranked).splitlines()
    assert HARMED in table[1]
    assert ["~" in line for line in table[1:]] == [not s.measured for s in ranked], "estimates are marked"


def test_the_estimates_are_near_what_is_measured(generator: Generator) -> None:
    quant_layers(generator)[HARMED].get_submodule("output.observer").high.div_(1000)  # not so coarse: first order holds
    estimated = {s.name: s for s in layer_sensitivities(generator, probe(), worst=0)}
    measured = layer_sensitivities(generator, probe(), worst=None)
    assert not any(s.measured for s in estimated.values())
    assert all(s.measured and s.given_back is not None for s in measured)
    assert {s.name for s in measured} == set(estimated) == set(quant_layers(generator))
    ratios = [estimated[s.name].alone / s.alone for s in measured]
    assert 0.8 < statistics.median(ratios) < 1.25
    assert sum(0.5 < ratio < 2 for ratio in ratios) > 0.9 * len(ratios)


def test_what_is_not_measured_takes_no_evaluation(generator: Generator) -> None:
    """A pass of the full-size U-Net takes seconds, and it has a hundred layers."""
    passes: list[str] = []
    generator.unet.register_forward_hook(lambda *_: passes.append("unet"))
    layer_sensitivities(generator, probe(), parts=("diffusion",), worst=3)
    assert len(passes) == 1 + 3 + 1 + 3
    passes.clear()
    layers_to_keep_float(generator, QuantConfig(max_quality_loss=1e-6), probe(), parts=("diffusion",))
    assert len(passes) < 50


def test_only_the_parts_asked_for(generator: Generator) -> None:
    ranked = layer_sensitivities(generator, probe(), parts=("velocity",), worst=0)
    assert {s.part for s in ranked} == {"velocity"}
    assert len(ranked) == 12


def test_a_budget_gives_layers_back_until_it_holds(generator: Generator) -> None:
    seen = probe()
    loss = part_error(generator, "diffusion", seen)
    budget = QuantConfig(max_quality_loss=0.6 * loss)
    kept = layers_to_keep_float(generator, budget, seen)
    assert kept[0] == HARMED
    assert len(kept) < 20
    restore_float(generator, kept)
    assert part_error(generator, "diffusion", seen) <= budget.max_quality_loss
    count = count_model(generator, budget.model_copy(update={"keep_float": kept}))
    left = {x.name: x.reason for x in count.layers if x.weighted and not x.quantised}
    assert left == dict.fromkeys(kept, "quant.keep_float")


def test_without_a_budget_nothing_is_kept(generator: Generator) -> None:
    assert layers_to_keep_float(generator, QuantConfig(), probe()) == ()


@torch.no_grad()
def test_a_restored_layer_is_the_float_layer() -> None:
    generator = calibrated(tiny_model("fork"), tiny_recipe("fork"))
    seen = probe()
    with phase_set(generator, "float"):
        expected = generator.unet(seen.x, seen.time), *generator.decode(seen.latent)
    names = list(quant_layers(generator))
    restore_float(generator, names)
    assert not quant_layers(generator)
    assert torch.equal(generator.unet(seen.x, seen.time), expected[0])
    assert all(torch.equal(a, b) for a, b in zip(generator.decode(seen.latent), expected[1:], strict=True))
    prepare_qat(generator, QuantConfig())
    assert list(quant_layers(generator)) == names
    calibrate(generator, [lambda: generator(2)])
