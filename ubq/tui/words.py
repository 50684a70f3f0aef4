"""Words and signs for states: never colour alone."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from ubq import states
from ubq.i18n import gettext as _

SIGNS = {
    "completed": "✓",
    "running": "▶",
    "failed": "✗",
    "crashed": "✗",
    "interrupted": "‖",
    "partial": "‖",
    "pending": "·",
    "unreadable": "?",
    "ok": "✓",
    "warning": "!",
}


def state_word(state: str) -> str:
    """A state of a run or a stage, with its sign."""
    return f"{SIGNS.get(state, '?')} {states.state_word(state)}"


def check_word(status: str) -> str:
    """The status of a check, with its sign."""
    word = _("FAILED") if status == "failed" else states.check_word(status)
    return f"{SIGNS.get(status, '?')} {word}"


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, its middle left out: names differ at their ends."""
    if cell_len(text) <= width:
        return text
    tail = max(0, (width - 1) // 2)
    head = set_cell_size(text, max(0, width - 1 - tail)).rstrip()
    end = text[::-1]
    return f"{head}…{set_cell_size(end, tail).rstrip()[::-1]}"
