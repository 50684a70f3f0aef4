"""The stages of a run, a line each."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from ubq.figures import duration, padded
from ubq.i18n import gettext as _
from ubq.jobs.state import CRASHED, PENDING, RUNNING, StageState
from ubq.jobs.status import Snapshot, percent
from ubq.tui.words import state_word

BAR = 12
WIDE = 76
"""Columns from which on bars have their full length."""


class Stages(Widget, can_focus=True):
    """A line for each stage; up and down choose whose curve is drawn."""

    help_text = _(
        "The stages of the run. Up and down choose whose losses are drawn; by default, those of the one at work."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", _("stage before"), id="stages.up", show=False),
        Binding("down,j", "move(1)", _("next stage"), id="stages.down", show=False),
    ]

    class Chosen(Message):
        """Another stage's curve is to be drawn."""

    shot: reactive[Snapshot | None] = reactive(None, layout=True)
    chosen: reactive[str] = reactive("")

    @property
    def stage(self) -> StageState | None:
        """The stage whose curve is drawn: the one chosen, else the one that trains, else the last that did."""
        stages = self.shot.state.stages if self.shot else []
        chosen = next((s for s in stages if s.name == self.chosen), None)
        begun = [s for s in stages if s.state != PENDING]
        trained = [s for s in begun if s.loss is not None]
        at_work = next((s for s in trained if s.state == RUNNING), None)
        return chosen or at_work or next(iter([*begun, *trained][::-1]), None)

    def action_move(self, by: int) -> None:
        names = [s.name for s in self.shot.state.stages] if self.shot else []
        current = self.stage
        if names:
            at = names.index(current.name) + by if current else 0
            self.chosen = names[min(max(at, 0), len(names) - 1)]
            self.post_message(self.Chosen())

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        return len(self.shot.state.stages) if self.shot else 1

    def render(self) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        if self.shot is None:
            return text
        stages = self.shot.state.stages
        width = max((len(s.name) for s in stages), default=0)
        drawn = self.stage
        for i, entry in enumerate(stages):
            state = CRASHED if entry.state == RUNNING and self.shot.shown == CRASHED else entry.state
            share = percent(entry.step, entry.steps, entry.state)
            bar = BAR if self.size.width >= WIDE else BAR // 3
            full = round(bar * share / 100)
            mark = "▸" if drawn is not None and entry.name == drawn.name else " "
            style = "bold" if state == RUNNING else ""
            if self.has_focus and mark == "▸":
                style = "reverse"
            line = Text(f"{mark}{entry.name:<{width}} {padded(state_word(state), 13)}", style=style)
            line.append(f" {'━' * full}{'╌' * (bar - full)} {share:>3.0f} %")
            line.append(f"  {_stage_figures(entry, state)}")
            text.append_text(line)
            text.append("\n" if i + 1 < len(stages) else "")
        return text


def _stage_figures(entry: StageState, state: str) -> str:
    parts = []
    if state == RUNNING and entry.eta is not None:
        parts.append(_("ETA {time}").format(time=duration(entry.eta)))
    elif entry.seconds:
        parts.append(duration(entry.seconds))
    if entry.loss is not None:
        parts.append(_("loss {loss:.4g}").format(loss=entry.loss))
    if entry.best_loss is not None:
        parts.append(_("best {loss:.4g}").format(loss=entry.best_loss))
    if entry.error:
        parts.append(entry.error.get("message", ""))
    return "  ".join(parts)
