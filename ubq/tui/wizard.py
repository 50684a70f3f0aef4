"""The wizard: data, checkpoint, quantisation, training, export, review; then ``ubq.toml`` and the job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Button, ContentSwitcher, Static

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui import questions
from ubq.tui.answers import key_of
from ubq.tui.dialogs import Ask, Keys, Messages
from ubq.tui.draft import Draft
from ubq.tui.fields import Field
from ubq.tui.live import Live
from ubq.tui.pages import Checks, Page, ReviewPage
from ubq.tui.questions import Step

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp

TYPING_S = 0.4
"""A pause in typing that is long enough to look at what was typed."""


class WizardScreen(Screen[None]):
    """Asks step by step; nothing is lost by going back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+g", "next", _("next"), id="wizard.next"),
        Binding("escape", "back", _("back"), id="wizard.back"),
        Binding("down", "app.focus_next", _("field"), id="wizard.down", key_display="↑↓"),
        Binding("up", "app.focus_previous", _("field before"), id="wizard.up", show=False),
        Binding("pagedown", "scroll(1)", _("scroll"), id="wizard.pagedown", show=False),
        Binding("pageup", "scroll(-1)", _("scroll back"), id="wizard.pageup", show=False),
        Binding("c", "copy", _("copy"), id="wizard.copy"),
    ]

    def __init__(self, draft: Draft, runs_dir: Path) -> None:
        super().__init__()
        self.draft = draft
        self._steps = [*questions.steps(), questions.review()]
        self._at = 0
        self._visited: set[str] = set()
        self._pause: Timer | None = None
        self._then = ""
        """What was asked for meanwhile: ``next`` or ``begin``."""
        draft.propose_run(runs_dir)
        self._opened = dict(draft.changes)

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

    @property
    def unsaved(self) -> bool:
        """Whether answers were given that leaving would lose."""
        return self.draft.changes != self._opened

    @property
    def step(self) -> Step:
        """The step that is shown."""
        return self._steps[self._at]

    @property
    def page(self) -> Page:
        return self.query_one(f"#page-{self.step.id}", Page)

    def compose(self) -> ComposeResult:
        yield Static("", id="trail", markup=False)
        with Horizontal(id="wizard"):
            with ContentSwitcher(id="pages"):
                yield Page(self.step, self.draft)
            with Vertical(id="side"):
                yield Static("", id="help", markup=False)
                yield Live(self.draft)
        with Horizontal(id="nav"):
            yield Button(_("Back"), id="back", compact=True)
            yield Button(_("Next"), id="next", compact=True, variant="primary")
            yield Button(_("Start"), id="begin", compact=True, variant="success")
            yield Button(_("Save only"), id="save", compact=True)
        yield Messages()
        yield Keys()

    async def on_mount(self) -> None:
        await self._show()

    def on_resize(self, event: events.Resize) -> None:
        self._show_trail()

    async def _show(self) -> None:
        """Show the step that is due."""
        step = self.step
        switcher = self.query_one(ContentSwitcher)
        name = f"page-{step.id}"
        if not switcher.query(f"#{name}"):
            page = (ReviewPage if step.id == "review" else Page)(step, self.draft)
            await switcher.add_content(page)
        switcher.current = name
        self._visited.add(step.id)
        self._then = ""
        last = step.id == "review"
        for button, shown in (("next", not last), ("begin", last), ("save", last and self.draft.writes)):
            self.query_one(f"#{button}", Button).display = shown
        self._show_trail()
        self.page.refresh_fields()
        self.page.scroll_home(animate=False)
        fields = self.page.fields()
        if last:
            self.query_one("#begin", Button).focus()
        elif fields:
            fields[0].control.focus()
        else:
            self.query_one("#next", Button).focus()
        self.refresh_bindings()
        # After the focus has moved, so that the field it left does not tell last.
        self.call_after_refresh(lambda: self._show_help(focused_field(self.focused)))
        self._look()

    def _show_trail(self) -> None:
        """Where one is: every step by name, or a count where there is no room for names."""
        trail = Text(no_wrap=True, overflow="ellipsis")
        count = f"{self._at + 1}/{len(self._steps)}"
        if self.size.width < 78:
            trail.append(f" {count} {self.step.title} ", style="reverse bold")
            trail.append("  " + " ".join("●" if s.id in self._visited else "○" for s in self._steps))
        else:
            for i, step in enumerate(self._steps):
                mark = "✓" if step.id in self._visited and i != self._at else f"{i + 1}"
                trail.append(f" {mark} {step.title} ", style="reverse bold" if i == self._at else "")
                trail.append("›" if i + 1 < len(self._steps) else "")
        self.query_one("#trail", Static).update(trail)

    # Answers

    @on(Field.Answered)
    def _answered(self, event: Field.Answered) -> None:
        event.stop()
        if event.left:
            self._take(event.field, final=True)
            if event.on and focused_field(self.focused) is event.field:
                self.focus_next()  # which the answer may have brought up
        else:
            if self._pause:
                self._pause.stop()
            self._pause = self.set_timer(TYPING_S, lambda: self._take(event.field, final=False))

    def _take(self, field: Field, final: bool) -> None:
        held = self.draft.value(field.name_of_key)
        if not field.is_mounted or field.answer in (held, questions.shown(held)):
            # Unchanged: say only what is still wrong.
            if final:
                field.complain(self.draft.problem(field.name_of_key))
            return
        problem = self.draft.answer(field.name_of_key, field.answer)
        self._then = ""
        self.page.refresh_fields()
        if final or not problem:
            field.complain(problem)
        self._show_help(focused_field(self.focused))
        self._look()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self._show_help(focused_field(event.widget))
        self.refresh_bindings()

    def _show_help(self, field: Field | None) -> None:
        text = Text()
        if field is not None:
            text.append(field.question.label, style="bold")
            text.append(f"  {field.name_of_key}", style="dim")
            source = self.draft.source(field.name_of_key)
            text.append(f"  ({source})" if source else "")
            text.append(f"\n{field.question.help}")
        else:
            text.append(self._help_beside())
        self.query_one("#help", Static).update(text)

    def _help_beside(self) -> str:
        """Help for what has the focus and is no field."""
        focused = self.focused
        if isinstance(focused, Checks):
            check = focused.current or {}
            return "\n".join(
                str(part) for part in (check.get("why"), _("Enter goes to the field that fixes it.")) if part
            )
        name = focused.id or "" if focused is not None else ""
        run = printable(self.draft.run_folder.name)
        if name == "save":
            return _("Save only writes {file}; what starts it: ubq run").format(file=self.draft.file)
        if name != "begin":
            return self.step.about
        if self.draft.writes:
            words = _("Start writes {file} and starts the run, which goes on without this program.")
            return words.format(file=self.draft.file)
        return _("Start begins the run {run}; it goes on without this program.").format(run=run)

    @property
    def help_text(self) -> str:
        """Help for the focused field, for ``?``."""
        field = focused_field(self.focused)
        if field is None:
            return self._help_beside()
        key = field.question.key
        return "\n".join((key.name, "", field.question.help, "", _("allowed: {allowed}").format(allowed=key.allowed)))

    # Moving

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """``c`` copies on the review alone, elsewhere it is a letter; after the review there is no next step."""
        review = self.step.id == "review"
        return {"copy": review, "next": not review}.get(action, True)

    @on(Button.Pressed, "#next")
    async def action_next(self) -> None:
        for field in self.page.fields():
            self._take(field, final=True)
        if self._hold():
            return
        has_inputs = any(f.name_of_key in questions.INPUTS and f.answer for f in self.page.fields())
        if self.query_one(Live).looking and has_inputs and self._then != "next":
            self._then = "next"
            self.notify(_("what was given is being looked at; then it goes on. Next again does not wait"), timeout=6)
            return
        self._at += 1
        await self._show()

    def _hold(self) -> bool:
        """Whether the step has a known mistake; the focus goes to it."""
        wrong = next((f for f in self.page.fields() if self.draft.mistake(f.name_of_key)), None)
        if wrong is not None:
            wrong.complain(self.draft.mistake(wrong.name_of_key))
            wrong.control.focus()
        return wrong is not None

    async def go_to(self, key: str) -> None:
        """Show the field of a key, on whatever step it is."""
        at = next((i for i, s in enumerate(self._steps) if any(q.key.name == key for q in s.questions)), self._at)
        if at != self._at:
            self._at = at
            await self._show()
        field = self.page.field_of(key)
        if field is not None:
            field.control.focus()
            self.call_after_refresh(field.scroll_visible, animate=False)

    @on(Checks.OptionSelected)
    async def _mend(self, event: Checks.OptionSelected) -> None:
        event.stop()
        check = self.query_one(Checks).current
        key = key_of(check, self.draft.loaded.config) if check else ""
        if key:
            await self.go_to(key)
        elif check:
            self.notify(_("no field here fixes it: {fix}").format(fix=check["fix"]), timeout=8, markup=False)

    @on(Checks.OptionHighlighted)
    def _tell_of_check(self, event: Checks.OptionHighlighted) -> None:
        event.stop()
        self._show_help(focused_field(self.focused))

    @on(Button.Pressed, "#back")
    async def action_back(self) -> None:
        if self._at:
            self._at -= 1
            await self._show()
        elif not self.unsaved:
            self.dismiss()
        else:
            answers = (("stay", _("stay")), ("leave", _("leave without saving")))
            self.app.push_screen(Ask(_("Leave the wizard? The answers are not saved yet."), answers), self._leave)

    def _leave(self, answer: str | None) -> None:
        if answer == "leave":
            self.dismiss()

    def action_scroll(self, pages: int) -> None:
        self.page.scroll_relative(y=pages * max(1, self.page.size.height - 2), animate=False)

    def action_copy(self) -> None:
        self.ubq.copy(self.draft.command)

    # What the answers mean

    def _look(self) -> None:
        self.query_one(Live).look(self.step.id)

    @on(Live.Checked)
    def _checked(self, event: Live.Checked) -> None:
        event.stop()
        for checks in self.query(Checks):
            if event.words:
                checks.say(event.words)
            else:
                checks.take(event.checks)

    @on(Live.Looked)
    async def _looked(self, event: Live.Looked) -> None:
        """Mark what is wrong, and do what waited for the look."""
        event.stop()
        for field in self.page.fields():
            if field.name_of_key in event.mistakes:
                field.complain(event.mistakes[field.name_of_key])
        then, self._then = self._then, ""
        if then == "next":
            await self.action_next()
        elif then == "begin":
            await self._begin()

    # Ending

    @on(Button.Pressed, "#save")
    def _save_only(self) -> None:
        if self._saved():
            self.notify(_("wrote {file}; start it with: ubq run").format(file=self.draft.file), timeout=6, markup=False)
            self.dismiss()

    @on(Button.Pressed, "#begin")
    async def _begin(self) -> None:
        if self._hold():
            return
        asked = [q.key.name for step in self._steps for q in step.questions if q.shown_if(self.draft.loaded.config)]
        wrong = next((key for key in asked if self.draft.mistake(key)), "")
        checks = self.query_one(Checks)
        if wrong:
            await self.go_to(wrong)
        elif self.query_one(Live).looking and self._then != "begin":
            self._then = "begin"
            self.notify(_("it starts as soon as the checks are done; Start again does not wait"), timeout=6)
        elif checks.failed:
            checks.focus()
            self.notify(_("a check failed; Enter goes to the field that fixes it"), severity="error", timeout=6)
        elif self._saved():
            from ubq.tui.progress import ProgressScreen

            folder = self.draft.run_folder
            self.app.switch_screen(ProgressScreen(folder, arguments=self.draft.start_arguments()))

    def _saved(self) -> bool:
        try:
            self.draft.judge()
            self.draft.save()
        except UbqError as error:
            self.ubq.tell(error.message, error.fix)
            return False
        return True


def focused_field(widget: Widget | None) -> Field | None:
    """The field that holds a widget."""
    return next((n for n in widget.ancestors_with_self if isinstance(n, Field)), None) if widget else None
