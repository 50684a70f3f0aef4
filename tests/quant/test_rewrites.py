"""Every rewrite leaves the function as it was."""

from __future__ import annotations

import pytest
import torch
from tiny import VARIANTS, tiny_model, tiny_recipe
from torch import nn

from ubq.config.schema import QuantConfig
from ubq.model import UBDiff
from ubq.quant import rewrites
from ubq.quant.analysis import REWRITES
from ubq.quant.generator import deployable, with_time_tables

OFF = dict.fromkeys(REWRITES, False)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(variant: str) -> UBDiff:
    return tiny_model(variant)


@torch.no_grad()
def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("on", [*OFF, "all", "none"])
def test_each_rewrite_alone_keeps_the_outputs(model: UBDiff, variant: str, on: str) -> None:
    quant = QuantConfig(**{name: on in (name, "all") for name in OFF})
    generator = deployable(model, tiny_recipe(variant, quant))
    if quant.time_tables:
        generator = with_time_tables(generator)
    latent = torch.randn(3, 16)
    x, time = torch.randn(3, 1, 16), generator.sampler.times[[0, 2, 4]]
    assert relative(generator.unet(x, time), model.unet(x, time)) < 1e-5
    velocity, seismic = generator.decode_normalised(latent.unsqueeze(1))
    assert relative(velocity, model.decode_velocity(latent)) < 1e-5
    assert relative(seismic, model.decode_seismic(latent)) < 1e-5


def test_all_75_conv1d_become_conv2d_and_nothing_changes_by_a_bit(model: UBDiff) -> None:
    x, time = torch.randn(2, 1, 16), torch.tensor([3, 11])
    before = model.unet(x, time)
    assert sum(isinstance(m, nn.Conv1d) for m in model.unet.modules()) == 75
    rewrites.convert_conv1d(model.unet)
    assert not any(isinstance(m, nn.Conv1d) for m in model.unet.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in model.unet.modules()) == 75
    assert torch.equal(model.unet(x, time), before)


@torch.no_grad()
def test_no_batchnorm_and_no_transposed_convolution_is_left(model: UBDiff, variant: str) -> None:
    generator = deployable(model, tiny_recipe(variant))
    left = {type(m) for m in generator.modules()}
    assert not left & {nn.BatchNorm1d, nn.BatchNorm2d, nn.ConvTranspose2d, nn.Conv1d}


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_shuffled_transposed_convolution_on_random_shapes(size: int) -> None:
    conv = nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1)
    x = torch.randn(2, 6, size, size + 1)
    shuffled = rewrites._shuffled(conv)
    assert relative(shuffled(x), conv(x)) < 1e-5
    multiplied = shuffled.conv.weight.numel()
    assert multiplied == conv.weight.numel(), "no multiplication is wasted on zeros"


@torch.no_grad()
def test_point_transposed_convolution() -> None:
    conv = nn.ConvTranspose2d(6, 5, 5, stride=2)
    x = torch.randn(3, 6, 1, 1)
    assert relative(rewrites._point(conv)(x), conv(x)) < 1e-5


def test_a_transposed_convolution_of_another_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel 4, stride 2"):
        rewrites._shuffled(nn.ConvTranspose2d(2, 2, 4, stride=2, padding=0))
    with pytest.raises(ValueError, match="1 x 1"):
        rewrites._point(nn.ConvTranspose2d(2, 2, 5, padding=1))


@torch.no_grad()
def test_tables_know_only_the_sampled_time_steps() -> None:
    generator = with_time_tables(deployable(tiny_model("paper"), tiny_recipe("paper")))
    visited = set(generator.sampler.times.tolist())
    missing = next(t for t in range(16) if t not in visited)
    with pytest.raises((IndexError, RuntimeError)):
        generator.unet(torch.randn(1, 1, 16), torch.tensor([missing]))


@torch.no_grad()
def test_the_model_handed_in_stays_as_it_was(model: UBDiff, variant: str) -> None:
    before = {n: t.clone() for n, t in model.state_dict().items()}
    generator = deployable(model, tiny_recipe(variant))
    for parameter in generator.parameters():
        parameter.zero_()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[n]) for n, t in before.items())


@torch.no_grad()
def test_tabulating_spares_the_original() -> None:
    generator = deployable(tiny_model("paper"), tiny_recipe("paper"))
    names = set(generator.state_dict())
    tabled = with_time_tables(generator)
    assert set(generator.state_dict()) == names
    assert not any("mlp.1" in n or "mlp.3" in n for n in tabled.state_dict() if n.startswith("unet."))
    assert tabled.unet.init_conv.conv.conv.weight.data_ptr() == generator.unet.init_conv.conv.conv.weight.data_ptr()


def test_a_sampler_on_another_device_gives_its_rows_there() -> None:
    rows = rewrites.TimeRows(torch.arange(0, 8, 2, device="meta"), 8)
    assert rows.rows.device.type == "meta"
