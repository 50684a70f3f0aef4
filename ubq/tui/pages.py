"""The pages of the wizard: the questions of a step, and the review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui.answers import check_text
from ubq.tui.draft import Draft
from ubq.tui.fields import Field
from ubq.tui.questions import Step


class Page(VerticalScroll, can_focus=False, inherit_bindings=False):
    """The questions of one step."""

    def __init__(self, step: Step, draft: Draft) -> None:
        super().__init__(id=f"page-{step.id}")
        self.step = step
        self._draft = draft

    def compose(self) -> ComposeResult:
        yield Static(self.step.about, classes="about", markup=False)
        for heading, group in self.step.groups:
            with Vertical(classes="group"):
                if heading:
                    yield Static(heading, classes="heading", markup=False)
                for question in group:
                    yield Field(question, self._draft.value(question.key.name))

    def on_mount(self) -> None:
        self.refresh_fields()

    def on_resize(self) -> None:
        """The panes beside it grow with what they say: the field that one is at stays in sight."""
        focused = self.screen.focused
        if focused is not None and self in focused.ancestors:
            self.call_after_refresh(self.scroll_to_widget, focused, animate=False)

    def fields(self) -> list[Field]:
        """The fields that are asked for now."""
        return [f for f in self.query(Field) if f.display]

    def field_of(self, name: str) -> Field | None:
        """The field of a key, where it is asked for."""
        return next((f for f in self.fields() if f.name_of_key == name), None)

    def refresh_fields(self) -> None:
        """Show what the answers elsewhere have changed here, and hide what no longer matters."""
        for field in self.query(Field):
            field.show(self._draft.value(field.name_of_key))
            relevant = self._draft.again is None or not field.name_of_key.startswith("run.")
            field.display = relevant and field.question.shown_if(self._draft.loaded.config)
            if not field.control.has_focus:
                field.complain(self._draft.problem(field.name_of_key))
        for group in self.query(".group"):
            group.display = any(f.display for f in group.query(Field))


class Checks(OptionList):
    """The checks before the start; those that are not in order take the focus, and Enter goes to what fixes them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", _("go to its field"), id="checks.open"),
        Binding("down", "go(1)", show=False, id="checks.down"),
        Binding("up", "go(-1)", show=False, id="checks.up"),
    ]

    def __init__(self) -> None:
        super().__init__(id="checks")
        self._found: Sequence[Mapping[str, Any]] = ()
        self.say("")

    @property
    def current(self) -> Mapping[str, Any] | None:
        """The check under the highlight."""
        return self._found[self.highlighted] if self.highlighted is not None and self._found else None

    @property
    def failed(self) -> bool:
        """Whether any of them keeps the run from starting."""
        return any(check["status"] == "failed" for check in self._found)

    def say(self, words: str) -> None:
        """Words in place of checks."""
        self._found = ()
        self.clear_options()
        self.add_option(Option(words, disabled=True))
        self.can_focus = False

    def take(self, checks: Sequence[Mapping[str, Any]]) -> None:
        """Show checks."""
        self.clear_options()
        self._found = checks
        self.add_options([Option(check_text(c, named=True), disabled=c["status"] == "ok") for c in checks])
        wrong = [i for i, check in enumerate(checks) if check["status"] != "ok"]
        self.can_focus = bool(wrong)
        failed = [i for i in wrong if checks[i]["status"] == "failed"]
        self.highlighted = next(iter(failed or wrong), None)

    def action_go(self, by: int) -> None:
        """Up and down; beyond the first and the last, to the field beside."""
        wrong = [i for i, option in enumerate(self.options) if not option.disabled]
        at = wrong.index(self.highlighted) + by if self.highlighted in wrong else -1
        if 0 <= at < len(wrong):
            self.highlighted = wrong[at]
        elif by > 0:
            self.screen.focus_next()
        else:
            self.screen.focus_previous()


class ReviewPage(Page):
    """What will be written and started."""

    def compose(self) -> ComposeResult:
        yield from super().compose()
        yield Static(_("checks before the start"), classes="heading", markup=False)
        yield Checks()
        yield Static(_("the same as a command (c copies it)"), classes="heading", markup=False)
        yield Static("", id="command", markup=False)
        with Vertical(id="writing", classes="beneath"):
            words = _("{file}, as it will be written").format(file=self._draft.file)
            yield Static(words, classes="heading", markup=False)
            yield Static("", id="file", markup=False)
        yield Static(_("all values that are not defaults, and where each comes from"), classes="heading", markup=False)
        yield Static("", id="summary", markup=False)

    def refresh_fields(self) -> None:
        super().refresh_fields()
        draft = self._draft
        self.query_one("#command", Static).update(printable(draft.command))
        try:
            text = draft.text
        except UbqError as error:
            text = error.message
        self.query_one("#file", Static).update(printable(text.strip()))
        self.query_one("#writing").display = draft.writes
        if draft.findings:
            self.query_one("#summary", Static).update(printable("\n".join(f"! {f}" for f in draft.findings)))
        else:
            self.query_one("#summary", Static).update(printable(draft.summary.strip()))
