"""Figures as people read them."""

from __future__ import annotations

import unicodedata


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "FW" else 1 for c in text)


def padded(text: str, width: int) -> str:
    """``text`` with blanks up to ``width`` columns of a terminal."""
    return text + " " * (width - columns(text))


def duration(seconds: float | None) -> str:
    """``1 h 02 min``, ``3 min 20 s``, ``12 s``; empty for ``None``."""
    if seconds is None:
        return ""
    whole = int(seconds + 0.5)
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


def size(count: object) -> str:
    """``1.2 GB``, ``31.1 MB``, ``6.3 kB``; empty for what is no number of bytes."""
    if not isinstance(count, int):
        return ""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
