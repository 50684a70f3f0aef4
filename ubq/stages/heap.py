"""The C library's heap during training: what a step frees stays with the process for the next step."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
NEVER = -1
LARGEST_ON_HEAP = 1 << 25
"""Largest block that glibc lets live on the heap on 64-bit machines; its own limit grows up to this, too."""


@contextmanager
def kept_heap() -> Iterator[None]:
    """Freed memory goes back to the system at the end of the block, not at every step.

    glibc returns the free top of its heap at once; a training step frees most of it, so the next one has
    those pages mapped and zeroed anew: up to a tenth of its time. The peak is the same, since it is a
    step's own. Without glibc nothing happens.
    """
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    # either one ends glibc's own adjustment of both
    library.mallopt(MMAP_THRESHOLD, LARGEST_ON_HEAP)
    library.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST_ON_HEAP)
        library.malloc_trim(0)
