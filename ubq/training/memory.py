"""Telling an allocation that failed from every other error."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """True for a failed allocation on a device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        mark in text for mark in ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")
    )
