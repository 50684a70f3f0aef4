"""Words and signs for states: never colour alone."""

from __future__ import annotations

from ubq import states
from ubq.figures import padded as padded
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
}
STYLES = {
    "completed": "$text-success",
    "running": "$text-accent",
    "failed": "$text-error",
    "crashed": "$text-error",
    "interrupted": "$text-warning",
    "partial": "$text-warning",
    "ok": "$text-success",
    "warning": "$text-warning",
}
"""Textual's names of colours; every one of them stands beside a word or a sign."""


def state_word(state: str) -> str:
    """A state of a run or a stage, with its sign."""
    return f"{SIGNS.get(state, '?')} {states.state_word(state)}"


def check_word(status: str) -> str:
    """The status of a check, with its sign."""
    words = {"ok": _("ok"), "warning": _("warning"), "failed": _("FAILED")}
    signs = {"ok": "✓", "warning": "!", "failed": "✗"}
    return f"{signs.get(status, '?')} {words.get(status, status)}"
