"""What must be there before a long run starts: data, what synthesises them, device, disk, memory.

The same objects are shown by ``ubq run``, ``ubq doctor`` and the text UI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ubq.distributed import rank_info
from ubq.jobs.checks.check import Check
from ubq.jobs.checks.configuration import check_inputs, check_synthesis, checkpoint
from ubq.jobs.checks.machine import check_device, check_disk, check_memory

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.base import Stage
    from ubq.stages.estimate import StageMemory
    from ubq.stages.paths import RunPaths


def check_run(config: Config, paths: RunPaths, todo: Sequence[Stage], *, contents: bool = True) -> list[Check]:
    """All checks for the stages that are to run; the cheap ones first, and alone where one of them fails.

    Args:
        paths: the run; its folder need not exist yet.
        todo: the stages that are not up to date; an empty list needs nothing.
        contents: read the checkpoints that are to be imported too.
    """
    if not todo:
        return []
    names = [stage.name for stage in todo]
    checks = [*check_inputs(config, todo), *check_synthesis(config, names)]
    if any("device" in stage.reads for stage in todo):
        checks.append(check_device(config.device, paths))
    reads = bool({"import", "qat-decoders"} & set(names)) and (config.pretrained.path or config.pretrained.decoder_path)
    if contents and reads and not any(check.failed for check in checks):
        checks += checkpoint(config)
    if any(check.failed for check in checks):
        return checks
    memory: Mapping[str, StageMemory] = {}
    devices = 1
    if any(stage.trains for stage in todo) or {"import", "export"} & set(names):
        from ubq.stages.device import find_device
        from ubq.stages.estimate import memory_of

        info = rank_info()
        if info is not None and find_device(config.device).type == "cuda":  # each process has a device of its own
            devices = info.size
        memory = memory_of(config, devices=devices)
    training = {name: needed for name, needed in memory.items() if name in names}
    return [*checks, check_disk(config, paths, names, memory), *check_memory(config, training, devices)]
