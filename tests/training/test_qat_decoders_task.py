"""The loss that the fake-quantised decoders train on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ubq.config.schema import QatTraining, SeismicTraining
from ubq.data.normalization import Normalization
from ubq.training.latents import Latents
from ubq.training.qat import QatDecodersTask
from ubq.training.randomness import SampleDraws
from ubq.training.sharpness import patch_loss
from ubq.training.tasks import SeismicTask, amplitude_error

SAMPLES = torch.arange(6)
RANGES = Normalization(-26.48, 52.32, 1500, 4500)


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
        QatDecodersTask(decoders, latents, Pairs(), Pairs(), QatTraining(patch_weight=weight), RANGES)
        for weight in (0.0, 0.3)
    )
    added = float(sharp.loss(SAMPLES, draws()) - plain.loss(SAMPLES, draws()))
    whole = float(patch_loss(torch.zeros(6, 1, 70, 70), Pairs.maps, draws()))
    assert added == pytest.approx(0.3 * whole, rel=1e-4)
    assert added > 0
    assert sharp.validate(3) == plain.validate(3)


def test_the_error_of_amplitudes_is_a_part_of_both_trainings_by_its_weight() -> None:
    decoders = nn.ModuleDict({"velocity": Flat(1, 70, 70), "seismic": Flat(5, 10, 7)})
    latents = Latents(torch.zeros(6, 4), torch.zeros(6, 4))
    error = float(amplitude_error(torch.zeros(6, 5, 10, 7), torch.ones(6, 5, 10, 7), RANGES))

    def tasks(weight: float) -> tuple[QatDecodersTask, SeismicTask]:
        qat, seismic = QatTraining(amplitude_weight=weight), SeismicTraining(amplitude_weight=weight)
        return (
            QatDecodersTask(decoders, latents, Pairs(), Pairs(), qat, RANGES),
            SeismicTask(decoders["seismic"], latents, Pairs(), Pairs(), seismic, RANGES),
        )

    for plain, weighted in zip(tasks(0.0), tasks(0.3), strict=True):
        added = float(weighted.loss(SAMPLES, draws()) - plain.loss(SAMPLES, draws()))
        assert added == pytest.approx(0.3 * error, rel=1e-4)
        assert weighted.validate(3) - plain.validate(3) == pytest.approx(0.3 * error, rel=1e-4)


def test_the_error_of_amplitudes_is_zero_for_equal_gathers_and_counts_late_samples_more() -> None:
    """A wrong half of a gather, whose amplitudes are 0 elsewhere: late, and early."""
    target = RANGES.seismic(torch.ones(1, 5, 100, 7))
    early, late = target.clone(), target.clone()
    silent = RANGES.seismic(torch.zeros(1))
    early[:, :, :50], late[:, :, 50:] = silent, silent
    assert float(amplitude_error(target, target, RANGES)) == 0.0
    assert float(amplitude_error(late, target, RANGES)) > 5 * float(amplitude_error(early, target, RANGES)) > 0
    assert float(amplitude_error(silent.expand_as(target), target, RANGES)) == pytest.approx(1.0)


def test_a_strong_arrival_counts_by_its_amplitude_and_not_by_its_logarithm() -> None:
    target = torch.zeros(1, 5, 100, 7)
    target[:, :, 50:60], target[:, :, 60:70] = 20.0, 0.5
    wrong = [target.clone(), target.clone()]
    wrong[0][:, :, 50:60] *= 1.1
    wrong[1][:, :, 60:70] *= 1.1
    strong, weak = (float(amplitude_error(RANGES.seismic(w), RANGES.seismic(target), RANGES)) for w in wrong)
    assert strong > 500 * weak > 0
