"""The model's structure: upstream's tensors, layer counts, scripting, and leaves that can be swapped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ubq.config.schema import ModelConfig
from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
from ubq.upstream.names import our_name

TINY = {
    "encoder_dim": 16,
    "dim_mults": (1, 2, 2, 4),
    "encoder_dims": (4, 8, 8, 16),
    "velocity_latent": 16,
    "velocity_dims": (4, 8, 8, 16, 16),
    "seismic_latent": 40,
    "seismic_samples": 30,
    "receivers": 7,
}


@pytest.fixture(params=["paper", "fork"])
def model(request: pytest.FixtureRequest) -> UBDiff:
    torch.manual_seed(0)
    return UBDiff(ModelSizes.from_dict({**TINY, "variant": request.param})).eval()


def full_sizes(variant: str, name: str) -> ModelSizes:
    encoder_dim, mults = (part.split("=")[1] for part in name.split())
    deepest = {"paper": 128, "fork": 512}[variant]
    return ModelSizes.from_dict(
        {
            "variant": variant,
            "encoder_dim": int(encoder_dim),
            "dim_mults": [int(m) for m in mults.split(",")],
            "velocity_dims": [32, 64, 128, 256, deepest],
        }
    )


@pytest.mark.parametrize("variant", ["paper", "fork"])
def test_full_size_model_has_exactly_upstreams_tensors(variant: str, shared: Path) -> None:
    for name, tensors in json.loads((shared / "upstream" / f"state_dict_{variant}.json").read_text()).items():
        theirs: dict[str, list[int]] = {}
        for upstream, shape in tensors.items():
            ours = our_name(upstream)
            assert ours is not None, upstream
            assert theirs.setdefault(ours, shape) == shape
        sizes = full_sizes(variant, name)
        with torch.device("meta"):
            model = UBDiff(sizes)
        state = {k: list(v.shape) for k, v in model.state_dict().items()}
        diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
        state |= {f"diffusion.{k}": list(v.shape) for k, v in diffusion.state_dict().items()}
        assert state == theirs
        assert sum(isinstance(m, nn.Conv1d) for m in model.unet.modules()) == 75


def test_decoders_have_24_weight_layers(model: UBDiff) -> None:
    decoders = [model.velocity_projector, model.velocity_decoder, model.seismic_projector, model.seismic_decoder]
    layers = [m for d in decoders for m in d.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 24
    assert sum(isinstance(m, nn.Conv1d) for m in model.unet.modules()) == 75


def test_sizes_are_the_model_table() -> None:
    assert ModelSizes.from_dict(ModelConfig().model_dump()) == ModelSizes()
    assert set(ModelSizes().to_dict()) == set(ModelConfig.model_fields)
    assert ModelSizes(encoder_dim=64).unet_dim == 64
    assert ModelSizes.from_dict(json.loads(json.dumps(ModelSizes().to_dict()))) == ModelSizes()
    with pytest.raises(TypeError, match="colour"):
        ModelSizes.from_dict({"colour": 1})


def test_shapes(model: UBDiff) -> None:
    latent = model.encode(torch.rand(3, 1, 70, 70))
    assert latent.shape == (3, 16)
    velocity, seismic = model(latent)
    assert velocity.shape == (3, 1, 70, 70)
    assert seismic.shape == (3, 5, 30, 7)
    assert model.unet(latent.unsqueeze(1), torch.tensor([0, 3, 7])).shape == (3, 1, 16)


def test_scripted_model_equals_eager(model: UBDiff) -> None:
    scripted = torch.jit.script(model)
    velocity, x, time = torch.rand(2, 1, 70, 70), torch.randn(2, 1, 16), torch.tensor([3, 5])
    with torch.no_grad():
        latent = model.encode(velocity)
        assert torch.equal(scripted.encode(velocity), latent)
        for ours, theirs in zip(scripted(latent), model(latent), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(scripted.unet(x, time), model.unet(x, time))


def widen(module: nn.Module) -> None:
    """Replace every Conv1d(k) by the Conv2d(1, k) with the same weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv1d):
            conv = nn.Conv2d(
                child.in_channels,
                child.out_channels,
                (1, child.kernel_size[0]),
                stride=(1, child.stride[0]),
                padding=(0, int(child.padding[0])),
                bias=child.bias is not None,
            )
            conv.load_state_dict({k: v.unsqueeze(2) if v.dim() == 3 else v for k, v in child.state_dict().items()})
            setattr(module, name, conv)
        else:
            widen(child)


def test_unet_runs_with_conv2d_leaves(model: UBDiff) -> None:
    x, time = torch.randn(2, 1, 16), torch.tensor([3, 5])
    with torch.no_grad():
        narrow = model.unet(x, time)
        widen(model.unet)
        assert not any(isinstance(m, nn.Conv1d) for m in model.unet.modules())
        torch.testing.assert_close(model.unet(x.unsqueeze(2), time), narrow.unsqueeze(2))
        scripted = torch.jit.script(model.unet)
        torch.testing.assert_close(scripted(x.unsqueeze(2), time), narrow.unsqueeze(2))


class Rows(nn.Module):
    """A table of precomputed rows."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, index: Tensor) -> Tensor:
        return self.rows[index]


def test_time_conditioning_can_be_tables() -> None:
    torch.manual_seed(0)
    unet = UBDiff(ModelSizes.from_dict(TINY)).unet.eval()
    x, time = torch.randn(2, 1, 16), torch.tensor([3, 5])
    with torch.no_grad():
        expected = unet(x, time)
        embedded = unet.time_mlp(torch.arange(8))
        for block in [m for m in unet.modules() if hasattr(m, "mlp")]:
            block.mlp = Rows(block.mlp(embedded))
        unet.time_mlp = nn.Identity()
        torch.testing.assert_close(unet(x, time), expected)
        torch.testing.assert_close(torch.jit.script(unet)(x, time), expected)


def test_every_weight_tensor_belongs_to_a_layer_that_is_called(model: UBDiff) -> None:
    """Swapping leaves reaches every weight: none is used but by calling its module."""
    layers = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d)
    }
    called: set[str] = set()
    weights = {name: layer.weight.data.clone() for name, layer in layers.items()}

    def restore(layer: nn.Module, name: str) -> None:
        called.add(name)
        layer.weight.data.copy_(weights[name])

    def poison(layer: nn.Module) -> None:
        # a use of the weight that goes past the layer's call gives NaN
        layer.weight.data.fill_(float("nan"))

    for name, layer in layers.items():
        poison(layer)
        layer.register_forward_pre_hook(lambda m, _, name=name: restore(m, name))
        layer.register_forward_hook(lambda m, *_: poison(m))
    with torch.no_grad():
        latent = model.encode(torch.rand(2, 1, 70, 70))
        velocity, seismic = model(latent)
        step = model.unet(latent.unsqueeze(1), torch.tensor([1, 2]))
    assert all(out.isfinite().all() for out in (latent, velocity, seismic, step))
    uncalled = set(layers) - called
    assert {n for n in uncalled if "time_mlp" not in n} == {"seismic_decoder.unused_head"}
    conditioned = model.unet.time_conditioned
    assert conditioned == ("unet.time_mlp.1" not in uncalled)
