"""Sampling schedules: which time steps a sampler visits, and the coefficients of each step.

Every solver here is one linear recursion, so one scripted loop runs them all:

    x0     = clamp(x0_from_x * x + x0_from_output * unet(x, t), -1, 1)
    x_next = from_x * x + from_x0 * x0 + from_previous_x0 * x0_before + from_noise * noise

The coefficients are computed in float64. Notation: a = sqrt(alphas_cumprod), s = sqrt(1 - alphas_cumprod),
lambda = log(a / s), half the log signal-to-noise ratio. The step after the last visited one is clean
data: a = 1, s = 0.

Sources: Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (respaced DDPM), Song et al. 2021 (DDIM),
Lu et al. 2022 (DPM-Solver++, algorithm 2), Salimans & Ho 2022 (v-prediction).
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ubq.config.schema import ExportConfig, Solver
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.model.diffusion import cosine_betas

MIN_LAMBDA = -5.1
"""Below it latents are indistinguishable from noise, so no steps are spent there after the first."""
COLUMNS = ("x0_from_x", "x0_from_output", "from_x", "from_x0", "from_previous_x0", "from_noise")


@dataclass(frozen=True)
class Schedule:
    """One way through the time steps.

    Attributes:
        times: visited steps of the training process, (N,) int64, falling.
        coefficients: (N, 6) float64, columns as in ``COLUMNS``.
    """

    times: Tensor
    coefficients: Tensor


def training_schedule(diffusion_steps: int) -> Tensor:
    """alphas_cumprod (S,) of the training process in float64: near 0 and 1 float32 loses half its digits."""
    return torch.cumprod(1 - cosine_betas(diffusion_steps), dim=0)


def offered_steps(export: ExportConfig, diffusion_steps: int) -> tuple[int, ...]:
    """Step counts of an exported file, its default first.

    Raises:
        UsageError: more steps than the training process has.
    """
    default = export.default_steps(diffusion_steps)
    counts = [default, *export.step_choices]
    if export.solver == "ddpm":
        counts.append(diffusion_steps)
    too_many = [n for n in counts if n > diffusion_steps]
    if too_many:
        raise UsageError(
            _("{steps} sampling steps, but the model has {trained}").format(
                steps=max(too_many), trained=diffusion_steps
            ),
            _("lower export.steps and export.step_choices"),
        )
    return (default, *sorted(set(counts) - {default}))


def log_snr(alphas_cumprod: Tensor) -> Tensor:
    """lambda at every time step, (S,) float64."""
    return 0.5 * (alphas_cumprod.log() - torch.log1p(-alphas_cumprod))


def spaced_times(alphas_cumprod: Tensor, steps: int) -> Tensor:
    """``steps`` distinct time steps, falling from the last to 0, as even in lambda as integers allow."""
    trained = len(alphas_cumprod)
    if steps >= trained:
        return torch.arange(trained - 1, -1, -1)
    if steps == 1:
        return torch.tensor([trained - 1])
    lam = log_snr(alphas_cumprod).tolist()  # falls with time
    start = max(lam[-1], MIN_LAMBDA)
    chosen = {trained - 1, 0}
    for i in range(1, steps - 1):
        target = start + (lam[0] - start) * i / (steps - 1)
        chosen.add(min(range(trained), key=lambda t: abs(lam[t] - target)))
    # rounding makes neighbours fall together: split the widest gaps until there are enough
    times = sorted(chosen)
    while len(times) < steps:
        gaps = [(lam[a] - lam[b], a, b) for a, b in itertools.pairwise(times) if b - a > 1]
        _width, a, b = max(gaps, key=lambda gap: (gap[0] if lam[gap[2]] >= MIN_LAMBDA else 0.0, gap[2] - gap[1]))
        middle = min(range(a + 1, b), key=lambda t: abs(lam[t] - 0.5 * (lam[a] + lam[b])))
        bisect.insort(times, middle)
    return torch.tensor(times[::-1])


def angle_even_times(alphas_cumprod: Tensor, steps: int) -> Tensor:
    """``steps`` time steps, falling from the last, as even in the angle arctan(s / a) as integers allow.

    Where a few steps must do, what a U-Net of the v-prediction turns its input by is the angle, and each step of DDIM
    gets an equal share of it; the last share leads to clean data.
    """
    angle = torch.acos(alphas_cumprod.sqrt())  # rises with time
    angles = angle[-1] * torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return (angle[None, :] - angles[:, None]).abs().argmin(dim=1)


def make_schedule(
    alphas_cumprod: Tensor, objective: str, solver: Solver, steps: int, times: Tensor | None = None
) -> Schedule:
    """The schedule of one solver and step count.

    Args:
        alphas_cumprod: (S,) float64, of the training process.
        objective: what the U-Net predicts: ``v``, ``noise`` or ``x0``.
        solver: ``ddpm`` (ancestral), ``ddim`` (eta 0) or ``dpmpp2m``.
        steps: steps to take, at most S.
        times: (N,) to visit instead of ``spaced_times``.
    """
    times = spaced_times(alphas_cumprod, steps) if times is None else times
    cumprod = alphas_cumprod[times]
    after = torch.cat((cumprod[1:], torch.ones(1, dtype=torch.float64)))
    a, s = cumprod.sqrt(), (1 - cumprod).sqrt()
    a_next, s_next = after.sqrt(), (1 - after).sqrt()
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    to_x0 = {"v": (a, -s), "noise": (1 / a, -s / a), "x0": (zero, one)}[objective]
    if solver == "ddpm":
        beta = 1 - cumprod / after
        variance = beta * (1 - after) / (1 - cumprod)
        noise = variance.sqrt()
        noise[-1] = 0.0
        step = ((1 - after) * (1 - beta).sqrt() / (1 - cumprod), a_next * beta / (1 - cumprod), zero, noise)
    elif solver == "ddim":
        step = (s_next / s, a_next - a * s_next / s, zero, zero)
    else:
        lam, lam_next = (a / s).log(), (a_next / s_next).log()  # the last step ends at infinity
        h = lam_next - lam
        toward_x0 = -a_next * torch.expm1(-h)
        # half the slope between the last two x0; none at the first step, nor at the last, where h is infinite
        half_slope = zero.clone()
        half_slope[1:-1] = 0.5 * h[1:-1] / h[:-2]
        step = (s_next / s, toward_x0 * (1 + half_slope), -toward_x0 * half_slope, zero)
    return Schedule(times, torch.stack((*to_x0, *step), dim=1))
