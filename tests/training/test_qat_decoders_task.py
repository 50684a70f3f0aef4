"""The loss that the fake-quantised decoders train on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ubq.config.schema import QatTraining
from ubq.training.latents import Latents
from ubq.training.qat import QatDecodersTask
from ubq.training.randomness import SampleDraws
from ubq.training.sharpness import patch_loss

SAMPLES = torch.arange(6)


class Pairs:
    """Maps of random cells and gathers of ones."""

    maps = torch.rand(6, 1, 70, 70, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.maps)

    def velocity(self, samples: Tensor) -> Tensor:
        return self.maps[samples]

    def seismic(self, samples: Tensor) -> Tensor:
        return torch.ones(len(samples), 5, 10, 7)


class Flat(nn.Module):
    """Whatever the latent, a constant."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, latent: Tensor) -> Tensor:
        return torch.zeros(len(latent), *self.shape)


def draws() -> SampleDraws:
    return SampleDraws(0, "test", range(6))


def test_the_patch_loss_is_a_part_of_training_by_its_weight_and_no_part_of_validation() -> None:
    decoders = nn.ModuleDict({"velocity": Flat(1, 70, 70), "seismic": Flat(5, 10, 7)})
    latents = Latents(torch.zeros(6, 4), torch.zeros(6, 4))
    plain, sharp = (
        QatDecodersTask(decoders, latents, Pairs(), Pairs(), QatTraining(patch_weight=weight)) for weight in (0.0, 0.3)
    )
    added = float(sharp.loss(SAMPLES, draws()) - plain.loss(SAMPLES, draws()))
    whole = float(patch_loss(torch.zeros(6, 1, 70, 70), Pairs.maps, draws()))
    assert added == pytest.approx(0.3 * whole, rel=1e-4)
    assert added > 0
    assert sharp.validate(3) == plain.validate(3)
