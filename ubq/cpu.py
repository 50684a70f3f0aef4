"""The host: its processor, how much of it and of its memory is ours, and how its threads wait for each other."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import MutableMapping
from pathlib import Path

SPINS = 10_000
"""Turns of its loop for which a thread of libgomp waits awake. Its own default is 300,000, a millisecond or so, which
on a busy machine is taken from the threads waited for; a tenth of this number and less costs an idle machine a quarter
of its rate (bench/README.md, "Beside other work")."""


def cores() -> int:
    """Processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def wait_asleep(environ: MutableMapping[str, str] | None = None) -> None:
    """Have threads that wait for each other go to sleep soon, so that a run beside other work gets its fair share.

    OpenMP reads the environment once, when torch is loaded: later this does nothing. What the user has set
    (``GOMP_SPINCOUNT``, ``OMP_WAIT_POLICY``) stays.
    """
    environ = os.environ if environ is None else environ
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def processor() -> str:
    """Its name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


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
