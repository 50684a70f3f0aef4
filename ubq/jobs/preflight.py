"""What the machine must have before a long run starts: data, disk, memory, the device.

Each check gives an object with a figure, why it matters and what mends it, so that every front end
shows the same. Nothing here imports torch, except where a device other than the CPU was asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.i18n import gettext as _
from ubq.jobs.checks import Check

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.base import Stage
    from ubq.stages.paths import RunPaths


def check_run(config: Config, paths: RunPaths, todo: Sequence[Stage]) -> list[Check]:
    """All checks for the stages that are to run.

    Args:
        todo: the stages that are not up to date; an empty list needs nothing.
    """
    if not todo:
        return []
    checks = [check_writable(paths.root), *check_inputs(config, todo), check_device(config.device)]
    return checks


def check_writable(folder: Path) -> Check:
    """Whether the run's folder takes a file, and how much room it has."""
    free = shutil.disk_usage(folder).free
    figure = _("{free:.1f} GB free in {folder}").format(free=free / 1e9, folder=folder)
    return Check(id="disk", status="ok", figure=figure)


def check_inputs(config: Config, todo: Sequence[Stage]) -> list[Check]:
    """Whether the files are there that the stages read from outside the run."""
    missing = [p for stage in todo for p in stage.inputs(config) if not Path(p).exists()]
    if not missing:
        return [Check(id="data", status="ok", figure=_("all input files are there"))]
    return [
        Check(
            id="data",
            status="failed",
            figure=_("{path} does not exist").format(path=missing[0]),
            why=_("a stage reads it"),
            mend=_("correct the path in the configuration or on the command line"),
        )
    ]


def check_device(device: str) -> Check:
    """Whether the device that was asked for can be used."""
    if device in ("auto", "cpu"):
        return Check(id="device", status="ok", figure=device)
    import torch

    kind, _colon, index = device.partition(":")
    if kind == "cuda":
        usable = torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()
    else:
        usable = kind == "mps" and torch.backends.mps.is_available()
    if usable:
        return Check(id="device", status="ok", figure=device)
    return Check(
        id="device",
        status="failed",
        figure=_("device {device} cannot be used").format(device=device),
        why=_("training would fail at its first step"),
        mend="--device auto",
    )
