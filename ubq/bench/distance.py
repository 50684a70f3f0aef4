"""Distribution distance of generated maps to held-out maps, against that of the float model's 256 steps.

Both sets start from the same noise (the upper end of a paired bootstrap 95 % interval is what must hold).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ubq.bench.subject import FloatModel, Subject
from ubq.metrics import ratio_interval, sliced_wasserstein
from ubq.runtime.noise import pair_noise

WITHIN = 1.05
"""Most that a distance may be of the float model's, interval included."""
BATCH = 32


@dataclass(frozen=True)
class Quality:
    """A set of generated maps beside the float model's ancestral one.

    Attributes:
        distance: sliced Wasserstein distance to the held-out maps.
        float_distance: the float model's.
        ratio, lower, upper: distance / float_distance with its interval.
        within: whether the upper end is at most ``WITHIN``.
        maps, held_out: counts.
    """

    distance: float
    float_distance: float
    ratio: float
    lower: float
    upper: float
    within: bool
    maps: int
    held_out: int


def compare(maps: Tensor, reference: Tensor, held_out: Tensor) -> Quality:
    """Quality of maps (N, 1, 70, 70) beside as many of the reference, row by row from the same noise."""
    own_distance, reference_distance = (sliced_wasserstein(x, held_out).mean for x in (maps, reference))
    value = own_distance / reference_distance if reference_distance > 0 else None
    ratio = ratio_interval(maps, reference, held_out, value=value)
    within = ratio.upper <= WITHIN
    return Quality(
        own_distance, reference_distance, ratio.value, ratio.lower, ratio.upper, within, len(maps), len(held_out)
    )


class Noise:
    """The same noise for every contender: x_T (N, 1, L), and step noise for an ancestral chain, made batch by batch."""

    def __init__(self, count: int, length: int, seed: int) -> None:
        self.count, self.length, self.seed = count, length, seed

    def batches(self, steps: int) -> list[tuple[Tensor, Tensor]]:
        """(x_T, step_noise (steps-1, B, 1, L)) of each batch; x_T does not depend on ``steps``."""
        batches = []
        for start in range(0, self.count, BATCH):
            pairs = range(start, min(start + BATCH, self.count))
            x_T, step_noise = pair_noise(self.seed, pairs, steps, self.length, stochastic=True)
            batches.append((torch.from_numpy(x_T), torch.from_numpy(step_noise)))
        return batches


def ancestral_maps(model: FloatModel, noise: Noise, progress: Callable[[], None] = lambda: None) -> Tensor:
    """Maps (N, 1, 70, 70), m/s, of the float model by all of its steps."""
    maps = []
    for x_T, step_noise in noise.batches(model.sizes.diffusion_steps):
        maps.append(model.velocity(model.latents(x_T, step_noise)))
        progress()
    return torch.cat(maps)


def quality_of_file(subject: Subject, steps: int, maps: int, seed: int) -> Quality | None:
    """Quality of an exported file; None where there are no real maps to hold it against."""
    if subject.held_out is None:
        return None
    file = subject.exported.module
    noise = Noise(maps, int(file.latent_length), seed)
    drawn = [file.decode(file.sample(x_T, step_noise, steps))[0] for x_T, step_noise in noise.batches(steps)]
    return compare(torch.cat(drawn), ancestral_maps(subject.float_model, noise), subject.held_out)
