"""What the machine must have before a long run starts: data, disk, memory, the device.

Each check gives an object with a figure, why it matters and what mends it, so that every front end
shows the same. Nothing here imports torch, except where a device other than the CPU was asked for.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.base import Stage
    from ubq.stages.paths import RunPaths

OK = "ok"
WARNING = "warning"
FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    id: str
    status: str
    """``ok``, ``warning`` or ``failed``."""
    figure: str
    """What was found."""
    why: str = ""
    """Why it matters."""
    mend: str = ""
    """The exact command or key that mends it."""

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


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
    return Check("disk", OK, _("{free:.1f} GB free in {folder}").format(free=free / 1e9, folder=folder))


def check_inputs(config: Config, todo: Sequence[Stage]) -> list[Check]:
    """Whether the files are there that the stages read from outside the run."""
    missing = [p for stage in todo for p in stage.inputs(config) if not Path(p).exists()]
    if not missing:
        return [Check("data", OK, _("all input files are there"))]
    return [
        Check(
            "data",
            FAILED,
            _("{path} does not exist").format(path=missing[0]),
            _("a stage reads it"),
            _("correct the path in the configuration or on the command line"),
        )
    ]


def check_device(device: str) -> Check:
    """Whether the device that was asked for can be used."""
    if device in ("auto", "cpu"):
        return Check("device", OK, device)
    import torch

    kind, _colon, index = device.partition(":")
    if kind == "cuda":
        usable = torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()
    else:
        usable = kind == "mps" and torch.backends.mps.is_available()
    if usable:
        return Check("device", OK, device)
    return Check(
        "device",
        FAILED,
        _("device {device} cannot be used").format(device=device),
        _("training would fail at its first step"),
        "--device auto",
    )
