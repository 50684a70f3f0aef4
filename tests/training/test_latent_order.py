"""Sorting the latent's channels changes their order and nothing else."""

from __future__ import annotations

import torch

from ubq.model import ModelSizes, build_part
from ubq.training.latent_order import chain, order_latent
from ubq.training.modules import Autoencoder

SIZES = ModelSizes(encoder_dim=12, encoder_dims=(4, 4, 8, 8), velocity_dims=(4, 4, 8, 8, 16), velocity_latent=8)


def test_a_shuffled_smooth_signal_is_put_back_in_order() -> None:
    torch.manual_seed(0)
    smooth = torch.cumsum(torch.randn(400, 20), dim=1)  # neighbours share most of their variance
    shuffle, flips = torch.randperm(20), torch.where(torch.rand(20) < 0.5, -1.0, 1.0)
    order, signs = chain(smooth[:, shuffle] * flips)
    assert sorted(order.tolist()) == list(range(20))
    found = shuffle[order]
    assert (found.diff().abs() <= 2).float().mean() > 0.8
    assert len((signs * flips[order]).unique()) == 1  # right up to one sign for all


def test_a_channel_that_never_changes_is_kept() -> None:
    latents = torch.randn(50, 6)
    latents[:, 2] = 0.3
    order, _signs = chain(latents)
    assert sorted(order.tolist()) == list(range(6))


def test_the_model_computes_the_same_and_its_latents_come_in_the_new_order() -> None:
    torch.manual_seed(1)
    model = Autoencoder(*[build_part(SIZES, part) for part in ("encoder", "velocity_projector", "velocity_decoder")])
    maps = torch.rand(64, 1, 5, 5).repeat_interleave(14, 2).repeat_interleave(14, 3) * 2 - 1
    for _ in range(20):
        model(maps)  # batch statistics of its own, channel by channel
    torch.nn.init.normal_(model.encoder.blocks[-1].norm.bias)  # type: ignore[index, union-attr, arg-type]
    model.eval()
    with torch.no_grad():
        before, latents = model(maps), model.encoder(maps).flatten(1)
        ordered = order_latent(model, latents)
        assert torch.allclose(model(maps), before, atol=1e-6)
        assert torch.allclose(model.encoder(maps).flatten(1), ordered, atol=1e-6)
    assert not torch.equal(ordered, latents)
    neighbours = [torch.corrcoef(z.T).diagonal(1).mean() for z in (latents, ordered)]
    assert neighbours[1] > neighbours[0]


def test_model_and_latents_may_lie_on_different_devices() -> None:
    """The latents come back to the host; a training model is elsewhere, here on the meta device."""
    parts = [build_part(SIZES, part).to("meta") for part in ("encoder", "velocity_projector", "velocity_decoder")]
    ordered = order_latent(Autoencoder(*parts), torch.randn(64, 12))
    assert ordered.device.type == "cpu"
