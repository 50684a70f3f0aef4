"""Small trainings that are to be the same for every number of processes.

As a program, ``python -m tests.training.rank_cases FOLDER CASE...`` trains them as one rank of several, by torchrun's
variables; the first rank writes ``CASE.pt`` into FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tiny import calibrated, tiny_model, tiny_recipe
from tests.training.test_loop import Context
from ubq import distributed
from ubq.config.schema import (
    AutoencoderTraining,
    DiffusionTraining,
    QatTraining,
    QuantConfig,
    RunConfig,
    TrainingConfig,
)
from ubq.model import GaussianDiffusion, ModelSizes, build_part
from ubq.quant.generator import decoders
from ubq.quant.layers import to_grid
from ubq.quant.phases import quant_layers
from ubq.training.head import fit_head
from ubq.training.latents import Latents
from ubq.training.loop import Task, train
from ubq.training.modules import Autoencoder, SeismicBranch
from ubq.training.qat import QatDecodersTask
from ubq.training.tasks import AutoencoderTask, DiffusionTask

CPU = torch.device("cpu")
LATENTS = torch.rand(24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
OBSERVERS = ("moving_average", "percentile", "mse")
BATCH = 7
"""Not a multiple of two: the ranks' shares differ."""


class Pairs:
    """Maps with interfaces, gathers that the latents decide."""

    maps = torch.nn.functional.interpolate(
        torch.rand(24, 1, 7, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1, scale_factor=10.0
    )
    mixing = torch.randn(16, 5 * 30 * 7, generator=torch.Generator().manual_seed(2)) / 8

    def __len__(self) -> int:
        return len(self.maps)

    def velocity(self, samples: Tensor) -> Tensor:
        return self.maps[samples]

    def seismic(self, samples: Tensor) -> Tensor:
        return (LATENTS[samples] @ self.mixing).reshape(-1, 5, 30, 7)

    def prefetch_seismic(self, samples: Tensor) -> None: ...


def _trained(task: Task, settings: TrainingConfig, context: Context | None = None) -> dict[str, Any]:
    context = context or Context()
    train(task, context, settings, RunConfig(log_every=1, checkpoint_steps=4), 3, CPU)
    return {"rows": context.rows, "model": task.model.state_dict()}


def autoencoder(accumulate: int = 1) -> dict[str, Any]:
    """Batch statistics, a loss over the patches of the whole batch, Muon.

    In float64: with so few values a channel, an untrained encoder's statistics magnify the rounding of float32 to
    a thousandth of the gradient, for one process as for two.
    """
    torch.manual_seed(0)
    sizes = ModelSizes(encoder_dim=8, encoder_dims=(4, 4, 8, 8), velocity_dims=(4, 4, 8, 8, 16), velocity_latent=8)
    model = Autoencoder(*(build_part(sizes, p) for p in ("encoder", "velocity_projector", "velocity_decoder"))).double()  # type: ignore[arg-type]
    settings = AutoencoderTraining(
        steps=8, batch_size=BATCH, lr=1e-3, patch_weight=0.4, optimizer="muon", freeze_statistics=0.8,
        accumulate=accumulate, amp=False,
    )  # fmt: skip
    pairs = Pairs()
    pairs.maps = pairs.maps.double()
    return _trained(AutoencoderTask(model, pairs, pairs, settings), settings)


def diffusion() -> dict[str, Any]:
    """Noise and time steps of each sample."""
    model = tiny_model("paper").unet
    settings = DiffusionTraining(steps=8, batch_size=BATCH, lr=1e-3)
    return _trained(DiffusionTask(model, GaussianDiffusion(16), Latents(LATENTS, LATENTS)), settings)


def head() -> dict[str, Any]:
    """The least-squares start."""
    torch.manual_seed(0)
    sizes = ModelSizes(encoder_dim=16, seismic_latent=32, seismic_samples=30, receivers=7)
    branch = SeismicBranch(build_part(sizes, "seismic_projector"), build_part(sizes, "seismic_decoder"))
    fit_head(branch, LATENTS, Pairs(), batch_size=5)
    return {"rows": [], "model": branch.state_dict()}


def qat(observer: str) -> dict[str, Any]:
    """Both decoders through all phases; with what each layer is exported as."""
    recipe = tiny_recipe("paper", QuantConfig(observer=observer))  # type: ignore[arg-type]
    model = decoders(calibrated(tiny_model("paper"), recipe, "float"))
    settings = QatTraining(steps=10, batch_size=BATCH, lr=1e-4, warmup=(0.2, 0.4, 0.8), epochs=0)
    task = QatDecodersTask(model, Latents(LATENTS, LATENTS), Pairs(), Pairs(), settings, recipe.normalization)
    found = _trained(task, settings)
    layers = quant_layers(model)
    found["integers"] = {
        name: to_grid(layer.weight.detach(), layer.weight_scales(layer.input_scale())) for name, layer in layers.items()
    }
    found["grids"] = {
        f"{name}.{i}": torch.stack([g.double() for g in observer.grid()])
        for name, layer in layers.items()
        for i, observer in enumerate(layer.observers())
    }
    return found


def out_of_memory() -> dict[str, Any]:
    """The last rank cannot hold more than two samples: all of them go on in smaller parts."""
    task = DiffusionTask(tiny_model("paper").unet, GaussianDiffusion(16), Latents(LATENTS, LATENTS))
    group, loss = distributed.group(), task.loss

    def scarce(samples: Tensor, draws: Any) -> Tensor:
        if group is not None and group.info.rank == group.info.size - 1 and len(samples) > 2:
            raise MemoryError
        return loss(samples, draws)

    task.loss = scarce  # type: ignore[method-assign]
    context = Context()
    found = _trained(task, DiffusionTraining(steps=4, batch_size=BATCH, lr=1e-3), context)
    return {**found, "events": context.events}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "autoencoder": autoencoder,
    "accumulated": lambda: autoencoder(accumulate=3),
    "diffusion": diffusion,
    "head": head,
    "out_of_memory": out_of_memory,
    **{observer: lambda observer=observer: qat(observer) for observer in OBSERVERS},  # type: ignore[misc]
}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    group = distributed.join("cpu")
    for name in names:
        found = CASES[name]()
        if group.info.rank == 0:
            torch.save(found, folder / f"{name}.pt")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
