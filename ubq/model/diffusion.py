"""Gaussian diffusion: noising, training targets and loss, ancestral sampling.

Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (cosine schedule), Salimans & Ho 2022 (v-prediction),
Hang et al. 2023 (loss weights by signal-to-noise ratio).

Shapes: B batch, L latent length, S diffusion steps.
"""

# no postponed annotations here: torch.jit reads those of the buffers
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Objective = Literal["v", "noise", "x0"]
Variant = Literal["paper", "fork"]
Predictor = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, 1, L), time (B,)) -> prediction (B, 1, L): the U-Net."""


def cosine_betas(steps: int, s: float = 0.008) -> Tensor:
    """The cosine schedule's betas, (S,) float64, at most 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    t = torch.linspace(0, steps, steps + 1, dtype=torch.float64) / steps
    alphas_cumprod = torch.cos((t + s) / (1 + s) * math.pi * 0.5) ** 2
    alphas_cumprod = alphas_cumprod / alphas_cumprod[0]
    return torch.clip(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0, 0.999)


class GaussianDiffusion(nn.Module):
    """The forward process of ``steps`` steps and its reverse.

    Every schedule array is a float32 buffer of length S.

    Args:
        steps: diffusion steps S.
        objective: what the network predicts: ``v``, ``noise`` or ``x0``.
        variant: ``paper`` computes the schedule in float64 and weighs the loss by signal-to-noise
            ratio; ``fork`` computes it in float32 and weighs all steps equally.
        uniform: weigh all steps equally, whatever the variant.

    Raises:
        ValueError: an unknown objective.
    """

    betas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    log_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor
    loss_weight: Tensor

    def __init__(
        self, steps: int, objective: Objective = "v", variant: Variant = "paper", uniform: bool = False
    ) -> None:
        super().__init__()
        if objective not in ("v", "noise", "x0"):
            raise ValueError(f"objective must be v, noise or x0, not {objective!r}")
        self.steps = steps
        self.objective = objective
        betas = cosine_betas(steps)
        if variant == "fork":
            betas = betas.float()
        alphas = 1 - betas
        cumprod = torch.cumprod(alphas, dim=0)
        previous = torch.cat((torch.ones(1, dtype=cumprod.dtype), cumprod[:-1]))
        variance = betas * (1 - previous) / (1 - cumprod)
        snr = cumprod / (1 - cumprod)
        weight = {"v": snr / (snr + 1), "noise": torch.ones_like(snr), "x0": snr}[objective]
        if uniform or variant == "fork":
            weight = torch.ones_like(snr)
        schedule = {
            "betas": betas,
            "alphas_cumprod": cumprod,
            "alphas_cumprod_prev": previous,
            "sqrt_alphas_cumprod": cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - cumprod).sqrt(),
            "log_one_minus_alphas_cumprod": (1 - cumprod).log(),
            "sqrt_recip_alphas_cumprod": (1 / cumprod).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1 / cumprod - 1).sqrt(),
            "posterior_variance": variance,
            # the variance is 0 at step 0
            "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
            "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumprod),
            "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumprod),
        }
        for name, values in schedule.items():
            self.register_buffer(name, values.float())
        self.register_buffer("loss_weight", weight.float(), persistent=variant == "paper")  # the fork stores none

    def q_sample(self, x_start: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Noisy latents x_t (B, 1, L) of x_start (B, 1, L) at time (B,)."""
        return (
            _at(self.sqrt_alphas_cumprod, time, x_start) * x_start
            + _at(self.sqrt_one_minus_alphas_cumprod, time, x_start) * noise
        )

    def v_target(self, x_start: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """The velocity v (B, 1, L) of Salimans & Ho 2022."""
        return (
            _at(self.sqrt_alphas_cumprod, time, x_start) * noise
            - _at(self.sqrt_one_minus_alphas_cumprod, time, x_start) * x_start
        )

    def target(self, x_start: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """What the network should return, (B, 1, L), for this objective."""
        if self.objective == "noise":
            return noise
        if self.objective == "x0":
            return x_start
        return self.v_target(x_start, time, noise)

    def predict_x_start(self, prediction: Tensor, x_t: Tensor, time: Tensor) -> Tensor:
        """x_start (B, 1, L) that the network's output for x_t implies; not clamped."""
        if self.objective == "noise":
            return (
                _at(self.sqrt_recip_alphas_cumprod, time, x_t) * x_t
                - _at(self.sqrt_recipm1_alphas_cumprod, time, x_t) * prediction
            )
        if self.objective == "x0":
            return prediction
        return (
            _at(self.sqrt_alphas_cumprod, time, x_t) * x_t
            - _at(self.sqrt_one_minus_alphas_cumprod, time, x_t) * prediction
        )

    def loss(self, unet: Predictor, x_start: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Weighted mean squared error, a scalar, of the prediction for x_start (B, 1, L) noised at time (B,)."""
        prediction = unet(self.q_sample(x_start, time, noise), time)
        return self.weighted_error(prediction, self.target(x_start, time, noise), time)

    def weighted_error(self, prediction: Tensor, target: Tensor, time: Tensor) -> Tensor:
        """Mean squared error, a scalar, of predictions (B, 1, L), weighted by their time (B,)."""
        error = (prediction - target).square().flatten(1).mean(dim=1)
        return (error * self.loss_weight[time]).mean()

    def p_sample(self, unet: Predictor, x_t: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """One ancestral step x_t (B, 1, L) -> x_(t-1); ``noise`` (B, 1, L) must be zero at step 0."""
        x_start = self.predict_x_start(unet(x_t, time), x_t, time).clamp(-1.0, 1.0)
        mean = _at(self.posterior_mean_coef1, time, x_t) * x_start + _at(self.posterior_mean_coef2, time, x_t) * x_t
        return mean + (0.5 * _at(self.posterior_log_variance_clipped, time, x_t)).exp() * noise

    @torch.no_grad()
    def sample_ddpm(self, unet: Predictor, x_T: Tensor, step_noise: Tensor) -> Tensor:
        """A whole ancestral chain.

        Args:
            unet: the network.
            x_T: starting noise (B, 1, L).
            step_noise: (S-1, B, 1, L), in the order of use; the last step adds none.

        Returns:
            Latents (B, 1, L).
        """
        x = x_T
        for i in range(self.steps):
            time = torch.full((x.shape[0],), self.steps - 1 - i, dtype=torch.long, device=x.device)
            noise = step_noise[i] if i < self.steps - 1 else torch.zeros_like(x)
            x = self.p_sample(unet, x, time, noise)
        return x


def _at(schedule: Tensor, time: Tensor, like: Tensor) -> Tensor:
    """The schedule's values at ``time`` (B,), shaped to broadcast over ``like`` (B, ...)."""
    return schedule[time].reshape((-1,) + (1,) * (like.dim() - 1))
