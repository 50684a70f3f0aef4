"""How a stage hands its task to the training loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ubq.config.schema import TrainingConfig
from ubq.distributed import decided_by_first, first_alone, rank_info
from ubq.figures import size
from ubq.i18n import gettext as _
from ubq.stages.base import StageContext
from ubq.stages.device import device_memory
from ubq.stages.floatmodel import sizes_of
from ubq.stages.heap import kept_heap

if TYPE_CHECKING:
    import torch

    from ubq.training.loop import Task


def run_training(
    context: StageContext, task: Task, settings: TrainingConfig, device: torch.device, unet_evaluations: int = 0
) -> None:
    """Train a task to its end; the model is left holding the averaged weights.

    What a stage does after this is the first rank's alone: on the others this does not return.

    Args:
        context: the stage's.
        task, settings, device: what to train, how and where.
        unet_evaluations: of a task that trains the U-Net, how many one step takes.

    Raises:
        Stopped: a stop was requested; the step is saved.
        Followed: trained, on another rank than the first.
    """
    from ubq.training.loop import train

    with kept_heap(), _checkpointing(context, task, unet_evaluations):
        train(task, context, settings, context.config.run, context.config.seed, device)
    first_alone()


def _checkpointing(context: StageContext, task: Task, unet_evaluations: int) -> AbstractContextManager[None]:
    """Activation checkpointing where the configuration or the memory asks for it."""
    from ubq.stages.estimate import PROCESS_BYTES, memory_of

    config = context.config
    setting = config.run.activation_checkpointing
    if not unet_evaluations or setting == "off":
        return nullcontext()

    def decide() -> bool:
        info = rank_info()
        needed = memory_of(config, sizes_of(config, context.paths), info.size if info else 1)[context.stage]
        _on_gpu, free = device_memory(config.device)
        chosen = needed.on(setting, free + needed.weights + PROCESS_BYTES)  # both are there already
        if chosen == needed:
            return False
        text = _("activation checkpointing: a step takes about {less} with it, {more} without")
        context.log(text.format(less=size(chosen.total), more=size(needed.total)))
        return True

    if not decided_by_first(decide):
        return nullcontext()
    from ubq.training.checkpointing import activation_checkpointing

    return activation_checkpointing(task.model, unet_evaluations)
