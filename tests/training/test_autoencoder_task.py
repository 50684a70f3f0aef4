"""The autoencoder's steps: frozen batch statistics, bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.training.test_loop import Context
from ubq.config.schema import AutoencoderTraining, RunConfig
from ubq.model import ModelSizes, build_part
from ubq.training import loop
from ubq.training.modules import Autoencoder
from ubq.training.randomness import SampleDraws
from ubq.training.tasks import AutoencoderTask

SIZES = ModelSizes(encoder_dim=8, encoder_dims=(4, 4, 8, 8), velocity_dims=(4, 4, 8, 8, 16), velocity_latent=8)
CPU = torch.device("cpu")


class Layers:
    """Two-layer maps, the interface at another depth in each."""

    def __len__(self) -> int:
        return 12

    def velocity(self, samples: Tensor) -> Tensor:
        depth = torch.arange(70)[None, :, None].expand(len(samples), 70, 70)
        return torch.where(depth < 5 * samples[:, None, None] + 5, -0.5, 0.5)[:, None]

    def seismic(self, samples: Tensor) -> Tensor:
        raise AssertionError("the autoencoder reads no gathers")


def task(**settings: object) -> AutoencoderTask:
    torch.manual_seed(0)
    parts = [build_part(SIZES, part) for part in ("encoder", "velocity_projector", "velocity_decoder")]
    return AutoencoderTask(Autoencoder(*parts), Layers(), Layers(), AutoencoderTraining(**settings))  # type: ignore[arg-type]


def trained(**settings: object) -> AutoencoderTask:
    made = task(steps=80, batch_size=12, lr=3e-3, ema_decay=0.9, **settings)
    loop.train(made, Context(), made.settings, RunConfig(), 0, CPU)
    return made


def statistics(made: AutoencoderTask) -> Tensor:
    return torch.cat([b.flatten().float() for n, b in made.model.named_buffers() if "running" in n])


def loss_of(made: AutoencoderTask, samples: list[int]) -> float:
    return float(made.loss(torch.tensor(samples), SampleDraws(0, "test", samples)).detach())


def test_statistics_are_frozen_for_the_share_that_is_asked_for() -> None:
    made = task(freeze_statistics=0.5)
    assert [made.phase(step, 10) for step in (0, 4, 5, 9)] == ["train", "train", "frozen", "frozen"]
    assert task().phase(9, 10) == "train"


def test_a_sample_no_longer_depends_on_its_batch_once_statistics_are_frozen() -> None:
    made = task(freeze_statistics=0.5)
    made.enter("train")
    apart = (loss_of(made, [0, 1]) + loss_of(made, [2, 3])) / 2
    assert loss_of(made, [0, 1, 2, 3]) != pytest.approx(apart, rel=1e-4)
    made.enter("frozen")
    before = statistics(made)
    apart = (loss_of(made, [0, 1]) + loss_of(made, [2, 3])) / 2
    assert loss_of(made, [0, 1, 2, 3]) == pytest.approx(apart, rel=1e-5)
    with torch.no_grad():
        made.validate(4)
    loss_of(made, [4, 5])  # a validation in between has not thawed them
    assert torch.equal(statistics(made), before)


@pytest.mark.skipif(not loop._has_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16 products")
def test_bfloat16_steps_keep_float32_weights_and_learn_as_well() -> None:
    narrow, wide = trained(amp=True), trained(amp=False)
    assert {p.dtype for p in narrow.model.parameters()} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(narrow.model.parameters(), wide.model.parameters(), strict=True))
    narrow_loss, wide_loss, first = (loss_of(made, list(range(12))) for made in (narrow, wide, task()))
    assert wide_loss < 0.8 * first
    # what was learned; on another CPU other roundings may learn more
    assert first - narrow_loss > 0.9 * (first - wide_loss)
