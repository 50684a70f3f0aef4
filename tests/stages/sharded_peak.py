"""Peak memory of a training step of the U-Net by two processes, and what is estimated for it.

``python -m tests.stages.sharded_peak FOLDER off|on`` as one of two ranks; the first writes ``off.pt`` or ``on.pt``,
(estimated, measured) bytes, into FOLDER.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from tests.training.rank_cases import CPU
from tests.training.test_loop import Context
from ubq import distributed
from ubq.config.load import load_config
from ubq.jobs.machine import forget_peak_memory, peak_memory
from ubq.model import GaussianDiffusion, ModelSizes, build_part
from ubq.stages.estimate import memory_of
from ubq.stages.heap import kept_heap
from ubq.training.latents import Latents
from ubq.training.loop import train
from ubq.training.sharding import sharded
from ubq.training.tasks import DiffusionTask

SIZES = {"model.encoder_dim": 128, "model.unet_dim": 256, "model.dim_mults": [1, 2, 2, 2]}
TRAINING = {"train.diffusion.steps": 2, "train.diffusion.batch_size": 8, "distill.steps": 0}


class Measured(Context):
    """Looks at the memory after each step, before the weights are gathered for a checkpoint, which it does not keep."""

    peak = 0

    def progress(self, step: int, steps: int, **figures: float | str) -> None:
        self.peak = peak_memory()
        super().progress(step, steps, **figures)

    def save(self, step: int, payload: dict[str, object]) -> None: ...


def main(folder: Path, shard: str) -> None:
    torch.set_num_threads(1)
    group = distributed.join("cpu")
    config = load_config("curvefault-a-edge", {**SIZES, **TRAINING}, isolated=True).config
    sizes = ModelSizes.from_dict(config.model.model_dump())
    with torch.device("meta" if shard == "on" and group.info.rank else "cpu"):
        unet = build_part(sizes, "unet")
    latents = torch.rand(16, sizes.encoder_dim) * 2 - 1
    task = DiffusionTask(unet, GaussianDiffusion(sizes.diffusion_steps, sizes.objective), Latents(latents, latents[:1]))
    with kept_heap(), sharded(task, group, CPU) if shard == "on" else nullcontext():
        forget_peak_memory()
        context = Measured()
        train(task, context, config.train.diffusion, config.run, 0, CPU)
    estimated = memory_of(config, sizes, 2)["train-diffusion"].sharded(shard, "off", 0, 2).total  # type: ignore[arg-type]
    if group.info.rank == 0:
        torch.save((estimated, context.peak), folder / f"{shard}.pt")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
