"""How a stage hands its task to the training loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

from ubq.config.schema import TrainingConfig
from ubq.distributed import decided_by_first, first_alone, group, rank_info
from ubq.figures import size
from ubq.i18n import gettext as _
from ubq.stages.base import StageContext
from ubq.stages.device import device_memory
from ubq.stages.floatmodel import sizes_of
from ubq.stages.heap import kept_heap

if TYPE_CHECKING:
    import torch

    from ubq.training.loop import Task
    from ubq.training.sharding import ShardedTask


def run_training(
    context: StageContext,
    task: Task,
    settings: TrainingConfig,
    device: torch.device,
    unet_evaluations: int = 0,
    shard: bool = False,
) -> None:
    """Train a task to its end; the model is left holding the averaged weights.

    What a stage does after this is the first rank's alone: on the others this does not return.

    Args:
        context: the stage's.
        task, settings, device: what to train, how and where.
        unet_evaluations: of a task that trains the U-Net, how many one step takes.
        shard: spread the U-Net over the ranks, as :func:`shards` decided.

    Raises:
        Stopped: a stop was requested; the step is saved.
        Followed: trained, on another rank than the first.
    """
    from ubq.training.loop import train

    with kept_heap(), _sharding(task, device, shard), _checkpointing(context, task, unet_evaluations, shard):
        train(task, context, settings, context.config.run, context.config.seed, device)
    first_alone()


def shards(context: StageContext) -> bool:
    """Whether a stage that trains the U-Net spreads it over the ranks, by ``distributed.shard``; alike on all ranks.

    Asked before the U-Net is built.
    """
    from ubq.stages.estimate import PROCESS_BYTES, memory_of

    config, info = context.config, rank_info()
    setting = config.distributed.shard
    if info is None or setting == "off":
        return False

    def decide() -> bool:
        on_gpu, free = device_memory(config.device)
        if setting == "auto" and not on_gpu:
            return False
        checkpointing, available = config.run.activation_checkpointing, free + PROCESS_BYTES  # the process is there
        whole = memory_of(config, sizes_of(config, context.paths), info.size, context.stage)[context.stage]
        spread = whole.sharded(setting, checkpointing, available, info.size)
        if spread == whole:
            return False
        text = _("the U-Net is spread over {count} processes: a step takes about {less} of each device, {more} without")
        less, more = (size(needed.on(checkpointing, available).total) for needed in (spread, whole))
        context.log(text.format(count=info.size, less=less, more=more))
        return True

    return bool(decided_by_first(decide))


def built_on(device: torch.device, shard: bool) -> torch.device:
    """Where a stage builds its U-Net: without memory on ranks that the first one will give their part to."""
    import torch

    info = rank_info()
    return torch.device("meta") if shard and info is not None and info.rank else device


def _sharding(task: Task, device: torch.device, shard: bool) -> AbstractContextManager[None]:
    ranks = group()
    if not shard or ranks is None:
        return nullcontext()
    from ubq.training.sharding import sharded

    return sharded(cast("ShardedTask", task), ranks, device)


def _checkpointing(
    context: StageContext, task: Task, unet_evaluations: int, shard: bool
) -> AbstractContextManager[None]:
    """Activation checkpointing where the configuration or the memory asks for it."""
    from ubq.stages.estimate import PROCESS_BYTES, memory_of

    config = context.config
    setting = config.run.activation_checkpointing
    if not unet_evaluations or setting == "off":
        return nullcontext()

    def decide() -> bool:
        info = rank_info()
        count = info.size if info else 1
        needed = memory_of(config, sizes_of(config, context.paths), count, context.stage)[context.stage]
        if shard:
            needed = needed.sharded("on", setting, 0, count)
        _on_gpu, free = device_memory(config.device)
        chosen = needed.on(setting, free + needed.held + PROCESS_BYTES)  # both are there already
        if chosen == needed:
            return False
        text = _("activation checkpointing: a step takes about {less} with it, {more} without")
        context.log(text.format(less=size(chosen.total), more=size(needed.total)))
        return True

    if not decided_by_first(decide):
        return nullcontext()
    from ubq.training.checkpointing import activation_checkpointing

    return activation_checkpointing(task.model, unet_evaluations)
