"""How a stage hands its task to the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ubq.config.schema import TrainingConfig
from ubq.distributed import first_alone
from ubq.stages.base import StageContext
from ubq.stages.heap import kept_heap

if TYPE_CHECKING:
    import torch

    from ubq.training.loop import Task


def run_training(context: StageContext, task: Task, settings: TrainingConfig, device: torch.device) -> None:
    """Train a task to its end; the model is left holding the averaged weights.

    What a stage does after this is the first rank's alone: on the others this does not return.

    Raises:
        Stopped: a stop was requested; the step is saved.
        Followed: trained, on another rank than the first.
    """
    from ubq.training.loop import train

    with kept_heap():
        train(task, context, settings, context.config.run, context.config.seed, device)
    first_alone()
