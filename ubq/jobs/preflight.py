"""What the machine must have before a long run starts: data, what synthesises them, device, disk, memory.

The same objects are shown by ``ubq run``, ``ubq doctor`` and the text UI.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.errors import PreflightError
from ubq.i18n import gettext as _
from ubq.jobs.checks import Check

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.base import Stage
    from ubq.stages.memory import StageMemory
    from ubq.stages.paths import RunPaths

GB = 1e9
# A disk with less than this left over fails other things than the run.
SPARE_BYTES = 100_000_000


def check_run(config: Config, paths: RunPaths, todo: Sequence[Stage]) -> list[Check]:
    """All checks for the stages that are to run; the cheap ones first, and alone where one of them fails.

    Args:
        paths: the run; its folder need not exist yet.
        todo: the stages that are not up to date; an empty list needs nothing.
    """
    if not todo:
        return []
    names = [stage.name for stage in todo]
    checks = [check_inputs(config, todo), *check_synthesis(config, names), check_device(config.device)]
    if any(check.failed for check in checks):
        return checks
    memory: Mapping[str, StageMemory] = {}
    if any(stage.trains for stage in todo) or {"import", "export"} & set(names):
        from ubq.stages.memory import memory_of

        memory = memory_of(config)
    training = {name: needed for name, needed in memory.items() if name in names}
    return [*checks, check_disk(config, paths, names, memory), *check_memory(config, training)]


def check_inputs(config: Config, todo: Sequence[Stage]) -> Check:
    """Whether the files are there that the stages read from outside the run."""
    missing = [path for stage in todo for path in stage.inputs(config) if not Path(path).exists()]
    if not missing:
        return Check(id="data", status="ok", figure=_("all input files are there"))
    return Check(
        id="data",
        status="failed",
        figure=_("{path} does not exist").format(path=missing[0]),
        why=_("a stage reads it"),
        mend=_("correct the path in the configuration or on the command line"),
    )


def check_synthesis(config: Config, names: Sequence[str]) -> list[Check]:
    """Whether pairs can be synthesised, where no data were given."""
    from ubq.config.extras import install_line, missing_modules

    if "prepare" not in names or config.data.train_velocity:
        return []
    missing = missing_modules("physics")
    return [
        Check(
            id="physics",
            status="failed" if missing else "ok",
            figure=_("not installed here: {modules}").format(modules=", ".join(missing))
            if missing
            else _("forward modelling is installed"),
            why=_("no data folder is given, so shot gathers are modelled"),
            mend=install_line("physics") if missing else "",
        )
    ]


def check_device(device: str) -> Check:
    """Whether the device that was asked for can be used."""
    if device not in ("auto", "cpu"):
        from ubq.stages.device import find_device

        try:
            device = str(find_device(device))
        except PreflightError as error:
            return Check(
                id="device",
                status="failed",
                figure=error.message,
                why=_("training would fail at its first step"),
                mend=error.mend,
            )
    return Check(id="device", status="ok", figure=device)


def disk_needed(config: Config, names: Sequence[str], memory: Mapping[str, StageMemory]) -> int:
    """Bytes that the stages will write: checkpoints, final weights, exported files, synthesised pairs.

    A checkpoint holds the weights, their average and the optimiser's two moments; one more than is kept
    lies there while the next is written.

    Args:
        names: the stages.
        memory: of every training stage, also of those that are done.
    """
    saved = {name: m.weights + m.training * 3 // 4 for name, m in memory.items() if name in names}
    total = config.run.keep_checkpoints * sum(saved.values()) + max(saved.values(), default=0)
    total += sum(m.weights for name, m in memory.items() if name in names)
    weights = {name: memory[name].weights for name in ("qat-decoders", "qat-diffusion") if name in memory}
    if "import" in names:
        total += sum(weights.values())
    if "qat-diffusion" in names:  # its final file is the whole generator
        total += weights.get("qat-decoders", 0)
    if "export" in names:  # the float reference and the int8 file
        total += sum(weights.values()) * 5 // 4
    if "prepare" in names and not config.data.train_velocity:
        model = config.model
        total += config.data.synth_samples * 4 * (model.sources * model.seismic_samples * model.receivers + 70 * 70)
    return total


def check_disk(config: Config, paths: RunPaths, names: Sequence[str], memory: Mapping[str, StageMemory]) -> Check:
    """Whether the disk takes what the stages will write, beyond what they have written already."""
    folder = paths.root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    there = sum(_size(paths.checkpoints(name)) for name in names) + (_size(paths.data) if "prepare" in names else 0)
    needed = max(0, disk_needed(config, names, memory) - there) + SPARE_BYTES
    figure = _("{needed:.1f} GB needed, {free:.1f} GB free in {folder}").format(
        needed=needed / GB, free=free / GB, folder=folder
    )
    enough = free >= needed
    return Check(
        id="disk",
        status="ok" if enough else "failed",
        figure=figure if enough else _("too little disk space: {figure}").format(figure=figure),
        why=_("checkpoints, final weights and synthesised pairs are written there"),
        mend="" if enough else _("make room, or choose another disk: --runs-dir DIR"),
    )


def check_memory(config: Config, memory: Mapping[str, StageMemory]) -> list[Check]:
    """Whether the hungriest stage fits the device's memory: weights, gradients, optimiser, average, activations."""
    if not memory:
        return []
    from ubq.jobs.mends import out_of_memory

    on_gpu, available = _device_memory(config.device)
    stage, needed = max(memory.items(), key=lambda item: item[1].total)
    figure = _("{stage} needs {needed:.1f} GB of memory, {available:.1f} GB are available").format(
        stage=stage, needed=needed.total / GB, available=available / GB
    )
    why = _("weights, gradients, optimiser, moving average and activations of one step")
    if needed.total <= available:
        return [Check(id="memory", status="ok", figure=figure, why=why)]
    mend = out_of_memory(config, stage)
    # A GPU that runs out says so, and the training loop goes on with smaller parts; on a CPU the kernel kills.
    splits = on_gpu and needed.total - needed.activations <= available
    return [
        Check(
            id="memory",
            status="warning" if splits else "failed",
            figure=figure,
            why=why,
            mend=mend.command(None),
            apply=mend.apply,
        )
    ]


def _device_memory(device: str) -> tuple[bool, int]:
    """Whether training runs on a GPU, and the bytes that are free for it."""
    import torch

    from ubq.jobs.doctor import memory_available
    from ubq.stages.device import find_device

    found = find_device(device)
    if found.type == "cuda":
        return True, torch.cuda.mem_get_info(found)[0]
    return False, memory_available()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
