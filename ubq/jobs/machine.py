"""Facts of this machine: memory, disk and device that a run may take."""

from __future__ import annotations

from pathlib import Path

GB = 1e9


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def memory_available() -> int:
    """Bytes that a process may still take here, the container's limit included."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return max(0, free)


def device_memory(device: str) -> tuple[bool, int]:
    """Whether training runs on a GPU, and the bytes that are free for it."""
    import torch

    from ubq.stages.device import find_device

    found = find_device(device)
    if found.type == "cuda":
        return True, torch.cuda.mem_get_info(found)[0]
    return False, memory_available()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
