"""What is int8 in the presets that CI can afford, in both variants: said by the model, read off the exported file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import VARIANTS, calibrated, tiny_model, tiny_recipe
from torch import Tensor

from ubq.config.load import load_config
from ubq.config.schema import ExportConfig
from ubq.data.normalization import for_config
from ubq.export.lower.torchscript import engine, load_torchscript, write_torchscript
from ubq.export.readback.torchscript import count_file
from ubq.model import ModelSizes, UBDiff
from ubq.quant.analysis import GOALS, count_model, differences
from ubq.quant.generator import Recipe, deployable, part_of
from ubq.quant.phases import quant_layers, set_phase
from ubq.quant.prepare import calibrate, prepare_qat

BACKEND = "qnnpack"


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("preset", ["smoke", "demo"])
def test_a_presets_model_and_its_exported_file_agree(preset: str, variant: str, tmp_path: Path) -> None:
    config = load_config(preset, isolated=True).config
    sizes = replace(ModelSizes.from_dict(config.model.model_dump()), variant=variant)
    recipe = Recipe(sizes, for_config(config.data), config.quant, ExportConfig(steps=2))
    generator = deployable(UBDiff(sizes).eval(), recipe, keep_model=False)
    prepare_qat(generator, recipe.quant)
    calibrate(generator, [lambda: generator(1)])
    set_phase(generator, "frozen")
    path = tmp_path / "generator.pt"
    write_torchscript(generator.eval(), path, BACKEND)
    with engine(BACKEND):
        graph = count_file(load_torchscript(path, BACKEND))
    model = count_model(generator, recipe.quant)
    assert differences(model, graph) == []
    assert model.totals() == graph.totals()
    for name, goal in GOALS.items():
        assert getattr(graph, name).fraction >= goal, name
    assert (graph.conv1d.quantised, graph.conv1d.total) == (75, 75)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_packed_weight_of_the_file_matters(variant: str, tmp_path: Path) -> None:
    """Other integers in one layer of the file, another output: no quantised operator is dead."""
    generator = calibrated(tiny_model(variant), tiny_recipe(variant))
    path = tmp_path / "generator.pt"
    write_torchscript(generator, path, BACKEND)
    latent, x = torch.rand(1, 1, 16) * 2 - 1, torch.randn(1, 1, 16)
    time = generator.sampler.times[:1]
    with engine(BACKEND):
        file = load_torchscript(path, BACKEND)

        def outputs() -> tuple[Tensor, ...]:
            return (file.unet(x, time), *file.decode_normalised(latent))

        before = outputs()
        packed = {name: module for name, module in file.named_modules() if hasattr(module, "packed")}
        assert len(packed) == count_file(file).weight_layers.total
        for name, module in packed.items():
            kept = module.packed
            module.packed = _with_other_weights(kept)
            changed = [not torch.equal(a, b) for a, b in zip(before, outputs(), strict=True)]
            module.packed = kept
            assert any(changed), name
        assert all(torch.equal(a, b) for a, b in zip(before, outputs(), strict=True))


def _with_other_weights(packed: torch.ScriptObject) -> torch.ScriptObject:
    """The same layer with its integers turned round."""
    weight, bias = packed.unpack()
    integers = -weight.int_repr().flip(tuple(range(1, weight.dim())))
    scales, zero_points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    turned = torch._make_per_channel_quantized_tensor(integers, scales, zero_points, 0)
    if weight.dim() == 2:
        return torch.ops.quantized.linear_prepack(turned, bias)
    geometry = (packed.stride(), packed.padding(), packed.dilation(), packed.groups())
    return torch.ops.quantized.conv2d_prepack(turned, bias, *geometry)


def test_the_decoders_may_have_an_observer_of_their_own() -> None:
    """Outliers stand outside the decoders' ranges and inside those of the U-Net."""
    plain = tiny_recipe("paper")
    own = replace(plain, quant=plain.quant.model_copy(update={"decoder_observer": "percentile", "percentile": 0.9}))

    def ranges(recipe: Recipe) -> dict[str, float]:
        generator = calibrated(tiny_model("paper"), recipe)
        layers = quant_layers(generator).items()
        return {name: float(layer.observers()[0].grid()[0]) for name, layer in layers if layer.observers()}

    before, after = ranges(plain), ranges(own)
    moved = {name for name in before if after[name] != before[name]}
    unet = {name for name in before if part_of(name) == "diffusion"}
    assert moved == set(before) - unet
    assert sum(after[name] < before[name] for name in moved) > 0.9 * len(moved)
