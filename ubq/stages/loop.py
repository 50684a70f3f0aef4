"""How a stage hands its task to the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ubq.config.schema import TrainingConfig
from ubq.stages.base import StageContext
from ubq.stages.heap import kept_heap

if TYPE_CHECKING:
    import torch

    from ubq.training.loop import Task


def run_training(context: StageContext, task: Task, settings: TrainingConfig, device: torch.device) -> None:
    """Train a task to its end; the model is left holding the averaged weights.

    Raises:
        Stopped: a stop was requested; the step is saved.
    """
    from ubq.training.loop import train

    with kept_heap():
        train(task, context, settings, context.config.run, context.config.seed, device)
