"""Identity of a file's content, cheap enough for a data set of 75 GB."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

WHOLE_BYTES = 64 << 20
BLOCKS = 64
BLOCK_BYTES = 32 << 10

_seen: dict[tuple[str, int, int, int, int], str] = {}


def content_of(path: Path) -> str:
    """Size and hash of a file: of all of it up to 64 MiB, else of 64 blocks of 32 KiB from the first byte to the last.

    Raises:
        OSError: it cannot be read.
    """
    stat = os.stat(path)
    # within this process alone, an unchanged inode is not read twice
    key = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key not in _seen:
        _seen[key] = _read(path, stat.st_size)
    return _seen[key]


def _read(path: Path, size: int) -> str:
    with open(path, "rb") as file:
        if size <= WHOLE_BYTES:
            return f"{size} bytes, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha256()
        for i in range(BLOCKS):
            file.seek((size - BLOCK_BYTES) * i // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
        return f"{size} bytes, sampled {digest.hexdigest()}"
