"""Words for the states and phases that a run's files hold as codes."""

from __future__ import annotations

from ubq.i18n import gettext as _


def state_word(state: str) -> str:
    """A state of a run or a stage; one of a newer ubq as it stands there."""
    words = {
        "completed": _("completed"),
        "running": _("running"),
        "failed": _("failed"),
        "crashed": _("crashed"),
        "interrupted": _("interrupted"),
        "partial": _("partial"),
        "pending": _("pending"),
        "unreadable": _("unreadable"),
    }
    return words.get(state, state)


def check_word(status: str) -> str:
    """What a check came to."""
    return {"ok": _("ok"), "warning": _("warning"), "failed": _("failed")}.get(status, status)


def phase_word(phase: str, stage: str) -> str:
    """What a stage is doing: a phase of its training, or a part of its work."""
    words = {
        "train": _("training"),
        "observe": _("observing"),
        "weights": _("weights int8"),
        "activations": _("activations too"),
        "frozen": _("ranges frozen") if stage.startswith("qat") else _("statistics frozen"),
        "validate": _("checking the data"),
        "forward": _("modelling gathers"),
        "teacher": _("running the teacher"),
        "generate": _("drawing pairs"),
    }
    return words.get(phase, phase)
