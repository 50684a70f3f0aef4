"""What a run's processes take of the machine: CPU, memory, GPU."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ubq.i18n import gettext as _
from ubq.jobs.owner import Owner, pid_is_local
from ubq.tui import cost

if TYPE_CHECKING:
    import psutil

GPU_S = 5.0
"""Seconds between two questions to the GPU's driver, each a process of its own."""


@dataclass(frozen=True)
class Load:
    """Of a run's processes.

    Args:
        cpu: busy cores, 1.0 for each.
        cores: that the machine has.
        memory: resident bytes.
        available: bytes of memory that are free to take.
        gpu: share of the time that the busiest GPU computed, 0 to 1; None without one.
        gpu_memory: bytes taken on it, by all processes.
    """

    cpu: float
    cores: int
    memory: int
    available: int
    gpu: float | None = None
    gpu_memory: int = 0

    @property
    def words(self) -> str:
        """In one line."""
        parts = [
            _("CPU {busy:.1f} of {cores} cores").format(busy=self.cpu, cores=self.cores),
            _("memory {size}, {free} free").format(
                size=cost.bytes_text(self.memory), free=cost.bytes_text(self.available)
            ),
        ]
        if self.gpu is not None:
            text = _("GPU {share:.0f} %, {size}")
            parts.append(text.format(share=100 * self.gpu, size=cost.bytes_text(self.gpu_memory)))
        return " · ".join(parts)


class LoadMeter:
    """Looks at a run's processes again and again; the first look has nothing to compare with."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}
        self._gpu: tuple[float, int] | None = None
        self._gpu_asked = -GPU_S

    def read(self, owner: Owner) -> Load | None:
        """The load of the run that ``owner`` holds; None where it runs elsewhere or is gone, and at the first look."""
        if not pid_is_local(owner):
            return None
        import psutil

        try:
            first = psutil.Process(owner.launcher or owner.pid)
            processes = {p.pid: p for p in (first, *first.children(recursive=True))}
        except psutil.Error:
            return None
        known = bool(self._processes)
        self._processes = {pid: self._processes.get(pid, process) for pid, process in processes.items()}
        cpu, memory = 0.0, 0
        for process in self._processes.values():
            try:
                cpu += process.cpu_percent() / 100
                memory += process.memory_info().rss
            except psutil.Error:
                continue  # it has ended meanwhile
        if not known:
            return None
        gpu = self._ask_gpu()
        available = psutil.virtual_memory().available
        return Load(cpu, psutil.cpu_count() or 1, memory, available, *(gpu or (None, 0)))

    def _ask_gpu(self) -> tuple[float, int] | None:
        """Share of time and bytes of the busiest GPU."""
        if time.monotonic() - self._gpu_asked < GPU_S:
            return self._gpu
        self._gpu_asked = time.monotonic()
        command = shutil.which("nvidia-smi")
        if command is None:
            return None
        query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run([command, *query], capture_output=True, text=True, timeout=2)
            rows = [line.split(",") for line in done.stdout.splitlines()]
            self._gpu = max((float(share) / 100, int(float(used) * 2**20)) for share, used in rows)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self._gpu = None
        return self._gpu
