"""The diffusion process against its own definitions."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from ubq.model import GaussianDiffusion, Objective
from ubq.model.diffusion import cosine_betas


@pytest.mark.parametrize("objective", get_args(Objective))
def test_the_target_gives_x_start_back(objective: Objective) -> None:
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(64, objective)
    x, noise, time = torch.randn(5, 1, 16), torch.randn(5, 1, 16), torch.tensor([0, 3, 20, 40, 62])
    noisy = diffusion.q_sample(x, time, noise)
    target = diffusion.target(x, time, noise)
    torch.testing.assert_close(diffusion.predict_x_start(target, noisy, time), x, rtol=1e-3, atol=1e-3)

    def perfect(x_t: Tensor, _time: Tensor) -> Tensor:
        assert torch.equal(x_t, noisy)
        return target

    assert diffusion.loss(perfect, x, time, noise) == 0


@pytest.mark.parametrize("objective", get_args(Objective))
def test_loss_weights_follow_the_signal_to_noise_ratio(objective: Objective) -> None:
    d = GaussianDiffusion(32, objective)
    snr = d.alphas_cumprod / (1 - d.alphas_cumprod)
    expected = {"v": d.alphas_cumprod, "noise": torch.ones(32), "x0": snr}[objective]
    torch.testing.assert_close(d.loss_weight, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(GaussianDiffusion(32, objective, "fork").loss_weight, torch.ones(32))
    assert torch.equal(GaussianDiffusion(32, objective, uniform=True).loss_weight, torch.ones(32))


def test_a_chain_with_a_perfect_network_ends_in_the_data() -> None:
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(16, "x0")
    data = torch.rand(1, 1, 8) * 2 - 1
    sampled = diffusion.sample_ddpm(lambda x, _: data.expand_as(x), torch.randn(4, 1, 8), torch.randn(15, 4, 1, 8))
    torch.testing.assert_close(sampled, data.expand(4, 1, 8))


def test_the_chain_clamps_x_start() -> None:
    diffusion = GaussianDiffusion(4, "x0")
    sampled = diffusion.sample_ddpm(lambda x, _: 5 * torch.ones_like(x), torch.randn(2, 1, 8), torch.randn(3, 2, 1, 8))
    assert torch.equal(sampled, torch.ones(2, 1, 8))


def test_schedule() -> None:
    betas = cosine_betas(256)
    assert betas.dtype == torch.float64
    assert (betas.diff() > 0).all()
    assert betas.max() == 0.999


def test_unknown_objective() -> None:
    with pytest.raises(ValueError, match="objective must be"):
        GaussianDiffusion(8, "score")  # type: ignore[arg-type]
