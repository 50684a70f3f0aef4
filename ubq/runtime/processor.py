"""What a processor does with int8: x86 without VNNI instructions clips sums that do not fit 16 bits.

There PyTorch's engines x86 and onednn and ONNX Runtime's faster kernels add two products of an activation (uint8) and a
weight (int8) in 16 bits: 2 x 255 x 127 is twice what they hold. What comes out is other pairs. PyTorch's qnnpack and
every ARM processor add in 32 bits.
"""

from __future__ import annotations

import platform
from pathlib import Path

CLIPPING_ENGINES = ("x86", "onednn")
"""Engines of PyTorch that need VNNI; fbgemm's files have 7-bit activations, whose sums fit."""


def adds_in_32_bits(processors: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has no such limit; no, where it is x86 and nobody says what it has."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    try:
        flags = processors.read_text().split()
    except OSError:
        return False
    return "avx_vnni" in flags or "avx512_vnni" in flags


def exact_engine(wanted: str) -> str:
    """The engine of PyTorch that computes here what ``wanted`` does on a processor with VNNI."""
    return "qnnpack" if wanted in CLIPPING_ENGINES and not adds_in_32_bits() else wanted
