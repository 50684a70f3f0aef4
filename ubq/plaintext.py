"""Text that ubq did not write, made harmless for terminals."""

from __future__ import annotations

import unicodedata
from typing import Any

_LINES = "\n\t"
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's categories of control and format characters, surrogates (bytes that are no text) and line separators."""
_JOINERS = frozenset("\u200c\u200d")
"""Format characters that some languages write words with."""


def printable(text: str, keep: str = _LINES) -> str:
    r"""Text whose control characters are spelled out, ``ESC[2J`` as ``\x1b[2J``; a file's name, a log's line.

    A terminal obeys such characters: they clear the screen, set its title, hide or reorder what is written.

    Args:
        text: anything.
        keep: control characters that stay: the ends of lines, and tabs.
    """
    if text.isprintable():
        return text
    shown = "".join(c if c in keep or c in _JOINERS else _spelled(c) for c in text.replace("\r\n", "\n"))
    return text if shown == text else shown  # itself, which may know how to say it in another language


def printable_within(value: Any) -> Any:
    """Lists and dictionaries as JSON has them, every text in them :func:`printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_within(v) for v in value]
    if isinstance(value, dict):
        return {printable_within(k): printable_within(v) for k, v in value.items()}
    return value


def _spelled(c: str) -> str:
    if unicodedata.category(c) not in _HIDDEN:
        return c
    if 0xDC80 <= ord(c) <= 0xDCFF:  # a byte that is not UTF-8, as Python's file names hold it
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode() if ord(c) not in range(0x80, 0xA0) else f"\\x{ord(c):02x}"
