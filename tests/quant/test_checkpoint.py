"""QAT checkpoints rebuild the very same generator; what is not one is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import VARIANTS, calibrated, tiny_model, tiny_recipe

from ubq.config.schema import QuantConfig
from ubq.errors import CheckpointError
from ubq.quant.analysis import REWRITES
from ubq.quant.checkpoint import is_qat, load_parts, load_qat, save_qat, skeleton
from ubq.quant.generator import deployable
from ubq.quant.phases import quant_layers
from ubq.quant.prepare import prepare_qat, restore_float


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rewritten", [True, False])
def test_a_file_rebuilds_the_generator_to_the_bit(variant: str, rewritten: bool, tmp_path: Path) -> None:
    recipe = tiny_recipe(variant, QuantConfig(**dict.fromkeys(REWRITES, rewritten)))
    generator = calibrated(tiny_model(variant), recipe, phase="activations")
    path = tmp_path / "final_qat_model.pt"
    save_qat(path, generator, recipe, metadata={"epochs": 3})
    loaded = load_qat(path)
    assert loaded.recipe == recipe
    assert loaded.metadata == {"epochs": 3}
    assert {layer.phase for layer in quant_layers(loaded.generator).values()} == {"activations"}
    before, after = generator.state_dict(), loaded.generator.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    latent, x, time = torch.rand(2, 1, 16), torch.randn(2, 1, 16), torch.tensor([15, 3])
    assert torch.equal(generator.unet(x, time), loaded.generator.unet(x, time))
    for a, b in zip(generator.decode(latent), loaded.generator.decode(latent), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_decoders_alone_then_a_float_unet(tmp_path: Path) -> None:
    recipe = tiny_recipe("paper")
    trained = calibrated(tiny_model("paper"), recipe)
    path = tmp_path / "final_qat_decoders.pt"
    save_qat(path, trained, recipe, parts=("velocity", "seismic"))
    alone = load_qat(path)
    assert alone.parts == ("velocity", "seismic")
    latent = torch.rand(2, 1, 16)
    for a, b in zip(trained.decode(latent), alone.generator.decode(latent), strict=True):
        assert torch.equal(a, b)
    assert next(alone.generator.unet.parameters()).is_meta
    other = deployable(tiny_model("paper", seed=7), recipe)
    prepare_qat(other, recipe.quant)
    x, time = torch.randn(1, 1, 16), torch.tensor([0])
    unet = other.unet(x, time)
    assert load_parts(other, path) == ("velocity", "seismic")
    assert torch.equal(other.unet(x, time), unet)
    assert torch.equal(other.decode(latent)[0], trained.decode(latent)[0])


def test_other_files_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain.pt"
    torch.save({"model": {}}, plain)
    torn = tmp_path / "torn.pt"
    torn.write_bytes(plain.read_bytes()[:100])
    assert not is_qat(plain)
    assert not is_qat(torn)
    for path, words in ((plain, "not a QAT checkpoint"), (torn, "cannot be read"), (tmp_path / "no.pt", "is missing")):
        with pytest.raises(CheckpointError, match=words):
            load_qat(path)


def test_a_newer_format_and_a_tensor_too_few_are_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe("fork")
    path = tmp_path / "q.pt"
    save_qat(path, calibrated(tiny_model("fork"), recipe), recipe)
    assert is_qat(path)
    document = torch.load(path, weights_only=True)
    torch.save({**document, "version": 99}, path)
    with pytest.raises(CheckpointError, match="newer ubq"):
        load_qat(path)
    document["state"].pop("unet.init_conv.conv.conv.weight")
    torch.save(document, path)
    with pytest.raises(CheckpointError, match=r"1 tensors differ, unet\.init_conv"):
        load_qat(path)


@torch.no_grad()
def test_layers_put_back_to_float_stay_so(tmp_path: Path) -> None:
    recipe = tiny_recipe("paper")
    trained = calibrated(tiny_model("paper"), recipe)
    names = ("velocity_projector.linear", "seismic_decoder.patch")
    restore_float(trained, names)
    path = tmp_path / "final_qat_decoders.pt"
    save_qat(path, trained, recipe, parts=("velocity", "seismic"))
    loaded = load_qat(path)
    assert set(loaded.recipe.quant.keep_float) == set(names)
    assert not set(names) & set(quant_layers(loaded.generator))
    other = skeleton(recipe)
    load_parts(other, path)
    latent = torch.rand(2, 1, 16)
    for generator in (loaded.generator, other):
        assert torch.equal(generator.decode(latent)[1], trained.decode(latent)[1])
    save_qat(path, other, recipe, parts=("velocity", "seismic"))
    assert set(load_qat(path).recipe.quant.keep_float) == set(names), "kept through the next stage"
