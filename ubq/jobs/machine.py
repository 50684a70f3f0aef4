"""Facts of this machine: memory, disk and device that a run may take."""

from __future__ import annotations

import contextlib
import platform
import sys
from pathlib import Path

from ubq.cpu import cores, processor

GB = 1e9


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget_peak_memory() -> None:
    """Let :func:`peak_memory` count from now; without a kernel that can, it counts from the start of the process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Largest resident size of this process, bytes; ``ru_maxrss`` alone would count its parent's at the fork."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def this_machine() -> dict[str, str | int]:
    """What a figure was measured on; the GPU only where this process has used one."""
    facts: dict[str, str | int] = {"host": platform.node(), "cpu": processor(), "cores": cores()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        facts |= {"gpu": torch.cuda.get_device_name(), "gpu_memory": torch.cuda.max_memory_allocated()}
    return facts
