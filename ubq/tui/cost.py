"""What a preset or a configuration costs, in words: size on the Pi, time, memory. Light: no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ubq.figures import duration
from ubq.i18n import gettext as _

FACTS_FILE = Path(__file__).with_name("preset_facts.json")
"""Figures of the shipped presets, computed by ``ubq.tui.lookup``."""
CPU_CORE = 20e9
GPU = 30e12
"""float32 operations a second that training gets out of one CPU core and out of a GPU: orders of magnitude."""
FIXED_SECONDS = 60.0
"""Start-up, export and verification, which no size makes much shorter."""
SECONDS_PER_PAIR = 0.2
"""Forward modelling of one synthetic pair on one core."""
LONG = 3 * 86400.0
"""A run longer than this on a CPU is not for a CPU."""


def preset_facts() -> Mapping[str, Mapping[str, Any]]:
    """``{preset: {memory_bytes, file_bytes, disk, operations, pairs}}``; empty where the file is missing."""
    try:
        facts = json.loads(FACTS_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def time_text(facts: Mapping[str, Any], cores: int, *, on_gpu: bool = False) -> str:
    """Estimate of how long the whole run takes here, or on a GPU where a CPU would take too long.

    Args:
        facts: ``operations`` and ``pairs`` to synthesise.
        cores: of the CPU, which synthesises in any case.
        on_gpu: whether training runs on one here.
    """
    synthesis = facts["pairs"] * SECONDS_PER_PAIR / cores
    on_cpu = FIXED_SECONDS + facts["operations"] / CPU_CORE / cores + synthesis
    if on_gpu or on_cpu > LONG:
        time = _rounded(FIXED_SECONDS + facts["operations"] / GPU + synthesis)
        return _("time estimated: {time} on a GPU").format(time=time)
    return _("time estimated: {time} on {cores} cores").format(time=_rounded(on_cpu), cores=cores)


def _rounded(seconds: float) -> str:
    """A duration to the one or two figures that an estimate has."""
    unit = next((u for u in (86400, 3600, 600, 60) if seconds >= 2 * u), 10)
    return re.sub(r" 00 (s|min|h)$", "", duration(round(seconds / unit) * unit))


def bytes_text(count: float) -> str:
    """``24 MB``, ``1.0 GB``."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
