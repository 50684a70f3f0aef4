"""Small trainings of the U-Net, of which each rank holds all weights or a part of them.

As a program, ``python -m tests.training.sharding_cases FOLDER CASE...`` trains them as one rank of several, by
torchrun's variables: ``CASE`` with a copy of the weights on each rank, ``CASE-sharded`` with a part. The first rank
writes ``CASE.pt`` into FOLDER. ``CASE-lost``: the other rank ends at its second step, as one that is killed.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.tiny import calibrated, tiny_model, tiny_recipe
from tests.training.rank_cases import BATCH, CPU, LATENTS
from tests.training.test_loop import Context
from ubq import distributed
from ubq.config.schema import (
    ConvolutionalTraining,
    DiffusionTraining,
    ExportConfig,
    QatDiffusionTraining,
    RunConfig,
    TrainingConfig,
)
from ubq.model import GaussianDiffusion
from ubq.quant.generator import Generator
from ubq.training.checkpointing import activation_checkpointing
from ubq.training.context import Stopped
from ubq.training.distill import DistillTask, Ends, start_noise
from ubq.training.latents import Latents
from ubq.training.loop import train
from ubq.training.qat import QatDiffusionTask
from ubq.training.sharding import ShardedTask, sharded
from ubq.training.tasks import DiffusionTask

STEPS, STOP = 6, 2
HELD_OUT = LATENTS[:1]
Case = tuple[Any, TrainingConfig, int]
"""Task, settings, evaluations of the U-Net in a step where its activations are checkpointed; 0: they are not."""


def diffusion(optimizer: str, variant: str = "paper") -> Case:
    settings = DiffusionTraining(
        steps=STEPS, batch_size=BATCH, lr=1e-3, optimizer=optimizer, accumulate=2, validate_every=4
    )  # type: ignore[arg-type]
    task = DiffusionTask(tiny_model(variant).unet, GaussianDiffusion(16), Latents(LATENTS, HELD_OUT))
    return task, settings, 0


def distillation() -> Case:
    """Three evaluations of the U-Net a step, each computed again for the backward pass."""
    recipe = replace(tiny_recipe("paper", export=ExportConfig().distilled(3)), distilled=True)
    student = Generator(tiny_model("paper"), recipe).eval()
    noise = start_noise(0, range(24), 16)
    ends = Ends(noise, noise.flip(0) * 0.5)
    return (
        DistillTask(student.unet, student.sampler, ends, Ends(noise[:8], ends.latent[:8])),
        ConvolutionalTraining(steps=STEPS, batch_size=BATCH, lr=1e-3, validate_every=4),
        3,
    )


def quantised(warmup: tuple[float, float, float] = (0.2, 0.4, 0.8)) -> Case:
    """Fake-quantised in all phases, with observers and the float U-Net as a teacher."""
    model = calibrated(tiny_model("paper"), tiny_recipe("paper"), "float").unet
    settings = QatDiffusionTraining(
        steps=STEPS, batch_size=BATCH, lr=1e-4, warmup=warmup, epochs=0, distillation=0.5, validate_every=4
    )
    return QatDiffusionTask(model, GaussianDiffusion(16), Latents(LATENTS, HELD_OUT), settings), settings, 1


CASES: dict[str, Callable[[], Case]] = {
    "adamw": lambda: diffusion("adamw"),
    "muon": lambda: diffusion("muon"),
    "fork": lambda: diffusion("adamw", "fork"),
    "distillation": distillation,
    "quantised": quantised,
    "rounded": lambda: quantised((0.0, 0.0, 0.8)),
}


def trained(case: str, shard: bool = False, context: Context | None = None) -> dict[str, Any]:
    """A case trained to its end, or to where the context stops it; with its last checkpoint."""
    task, settings, evaluations = CASES[case]()
    context = context or Context()
    group = distributed.group()
    with sharded(_on(task, group), group, CPU) if shard and group else nullcontext():
        saving = activation_checkpointing(task.model, evaluations) if evaluations else nullcontext()
        with saving:
            train(task, context, settings, RunConfig(log_every=1, checkpoint_steps=4), 3, CPU)
    return {"rows": context.rows, "model": task.model.state_dict(), "saved": context.saved}


def _on(task: ShardedTask, group: distributed.Group | None) -> ShardedTask:
    """The task, its weights given up on every rank but the first, which sends its own."""
    if group is not None and group.info.rank:
        task.model.to("meta")
    return task


def interrupted(case: str, shard: bool) -> Context:
    """A training that was stopped; its context holds the checkpoints on the first rank."""
    context = Context(stop_at=STOP)
    with suppress(Stopped):
        trained(case, shard, context)
    return Context(context.saved)


def lost(case: str) -> dict[str, Any]:
    """What the first rank is told where the other one ends between two steps."""
    context = Context()
    group = distributed.group()
    if group is not None and group.info.rank:
        context.metrics = lambda *_figures, **_more: os._exit(0)  # type: ignore[method-assign]
    try:
        trained(case, True, context)
    except distributed.LostProcessError as error:
        return {"error": str(error)}
    return {}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("error", "FSDP")
    group = distributed.join("cpu")
    for name in names:
        case, _dash, how = name.partition("-")
        if how == "resumed":  # from the checkpoint of one process, which both ranks read
            saved = torch.load(folder / f"{case}-of-one.pt")
            found = trained(case, True, Context(saved))
        elif how == "stopped":
            found = {"saved": interrupted(case, True).saved}
        elif how == "lost":  # and nobody to part from
            torch.save(lost(case), folder / f"{name}.pt")
            return
        else:
            found = trained(case, how == "sharded")
        if group.info.rank == 0:
            torch.save(found, folder / f"{name}.pt")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
