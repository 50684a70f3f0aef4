"""The wizard: data, checkpoint, quantisation, training, export, review; then ``ubq.toml`` and the job."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Button, ContentSwitcher, Static

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui import cost, questions
from ubq.tui.dialogs import Ask, Keys
from ubq.tui.draft import Draft, free_run_name
from ubq.tui.fields import Field
from ubq.tui.processes import Lookup, ubq_json
from ubq.tui.questions import Step
from ubq.tui.words import check_word

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp

TYPING_S = 0.4
"""A pause in typing that is long enough to look at what was typed."""
INSPECT_S = 120.0
"""Longest wait for the look into a checkpoint."""
READ_AT_ONCE = 2e9
"""Bytes of samples that the live check reads whole; of more, it looks at the files' headers alone."""


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

    def fields(self) -> list[Field]:
        """The fields that are asked for now."""
        return [f for f in self.query(Field) if f.display]

    def refresh_fields(self) -> None:
        """Show what the answers elsewhere have changed here, and hide what no longer matters."""
        for field in self.query(Field):
            field.show(self._draft.value(field.name_of_key))
            field.display = field.question.shown_if(self._draft.loaded.config)
            if not field.control.has_focus:
                field.complain(self._draft.problem(field.name_of_key))
        for group in self.query(".group"):
            group.display = any(f.display for f in group.query(Field))


class ReviewPage(Page):
    """What will be written and started."""

    def compose(self) -> ComposeResult:
        yield from super().compose()
        yield Static(_("checks before the start"), classes="heading", markup=False)
        yield Static("", id="checks", markup=False)
        yield Static(_("the same as a command (c copies it)"), classes="heading", markup=False)
        yield Static("", id="command", markup=False)
        yield Static(_("{file}, as it will be written").format(file=self._draft.file), classes="heading", markup=False)
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
        if draft.findings:
            self.query_one("#summary", Static).update(printable("\n".join(f"! {f}" for f in draft.findings)))
        else:
            self.query_one("#summary", Static).update(printable(draft.summary.strip()))


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
        self._probe = Lookup()
        self._pause: Timer | None = None
        self._asked: dict[str, object] = {}
        run = draft.loaded.config.run
        if runs_dir != Path(run.dir):
            draft.answer("run.dir", str(runs_dir))
        name = free_run_name(runs_dir, run.name or "run")
        if name != run.name:
            draft.answer("run.name", name)
        self._opened = dict(draft.changes)

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

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
                with VerticalScroll(id="live-scroll", can_focus=False):
                    yield Static("", id="live", markup=False)
        with Horizontal(id="nav"):
            yield Button(_("Back"), id="back", compact=True)
            yield Button(_("Next"), id="next", compact=True, variant="primary")
            yield Button(_("Start"), id="begin", compact=True, variant="success")
            yield Button(_("Save only"), id="save", compact=True)
        yield Keys()

    async def on_mount(self) -> None:
        await self._show()

    async def on_unmount(self) -> None:
        await self._probe.close()

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
        last = step.id == "review"
        for button, wanted in (("next", not last), ("begin", last), ("save", last)):
            self.query_one(f"#{button}", Button).display = wanted
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
        self.page.refresh_fields()
        if final or not problem:
            field.complain(problem)
        self._look()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self._show_help(focused_field(event.widget))
        self.refresh_bindings()

    def _show_help(self, field: Field | None) -> None:
        text = Text()
        if field is not None:
            text.append(field.name_of_key, style="bold")
            source = self.draft.loaded.provenance.get(field.name_of_key, "")
            text.append(f"  ({source})" if source else "")
            text.append(f"\n{field.question.help}")
        else:
            text.append(self.step.about)
        self.query_one("#help", Static).update(text)

    @property
    def help_text(self) -> str:
        """Help for the focused field, for ``?``."""
        field = focused_field(self.focused)
        if field is None:
            return self.step.about
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
        wrong = next((f for f in self.page.fields() if self._refused(f)), None)
        if wrong is not None:
            wrong.complain(self.draft.problem(wrong.name_of_key))
            wrong.control.focus()
            return
        self._at += 1
        await self._show()

    def _refused(self, field: Field) -> bool:
        return any(f.key == field.name_of_key for f in self.draft.findings)

    @on(Button.Pressed, "#back")
    async def action_back(self) -> None:
        if self._at:
            self._at -= 1
            await self._show()
        elif self.draft.changes == self._opened:
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

    # Looking at what the answers mean

    def _look(self) -> None:
        """Ask whatever the step shows live, unless it has been asked already."""
        config = self.draft.loaded.config
        step = self.step.id
        if step == "data":
            wanted: object = (config.data.model_dump_json(), config.seed)
        elif step == "checkpoint":
            wanted = config.pretrained.model_dump_json()
        elif step in ("quantisation", "training", "export"):
            step, wanted = "estimate", config.model_dump_json()
        else:
            wanted = self.draft.text
        if self.draft.findings:
            self._live(_("fix what is marked first"))
        elif self._asked.get("step") != self.step.id or self._asked.get("wanted") != wanted:
            self._asked = {"step": self.step.id, "wanted": wanted}
            self._ask_for(step)

    @work(exclusive=True, group="live")
    async def _ask_for(self, step: str) -> None:
        config = self.draft.loaded.config
        if step == "checkpoint":
            if not config.pretrained.path:
                self._live(_("No checkpoint: autoencoder, seismic decoder and diffusion are trained first."))
                return
            self._live(_("looking into {path} …").format(path=config.pretrained.path))
            found = await self._inspect()
            if self.query("#live"):
                self._live(_checkpoint_text(found))
            return
        review = self.query("#checks")
        self._live(_("checking …"))
        if step == "review" and review:
            review.first(Static).update(_("checking …"))
        answer = await self._probe.ask(
            {"data": "data", "estimate": "estimate"}.get(step, "preflight"), str(self.draft.file), self.draft.text
        )
        if not self.query("#live"):
            return  # the screen is being closed
        if "error" in answer:
            text = Text(f"! {answer['error']} {answer['fix']}".rstrip())
        elif step == "estimate":
            text = _estimate_text(answer, config.threads)
        else:
            text = _checks_text(answer["checks"], named=step == "review")
        if step == "review":
            self.query_one("#checks", Static).update(text)
            self._live(_plan_text(answer, self.draft))
        else:
            self._live(text)
        if step == "data" and answer.get("bytes"):
            await self._read_samples(text, answer["bytes"])

    async def _read_samples(self, seen: Text, count: float) -> None:
        """Below what the headers say: what is in the samples, or that they have not been read."""
        if count > READ_AT_ONCE:
            text = _("only headers were read; the stage prepare reads every sample before it trains")
            self._live(Text(f"{seen}\n{text}"))
            return
        self._live(Text(f"{seen}\n" + _("reading all samples, {size} …").format(size=cost.bytes_text(count))))
        answer = await self._probe.ask("content", str(self.draft.file), self.draft.text)
        if not self.query("#live"):
            return  # the screen is being closed
        if "error" in answer:
            self._live(Text(f"! {answer['error']} {answer['fix']}".rstrip() + f"\n{seen}"))
        else:
            self._live(Text("\n").join((_checks_text(answer["checks"]), seen)))

    async def _inspect(self) -> dict[str, Any]:
        pretrained = self.draft.loaded.config.pretrained
        path = os.path.expanduser(pretrained.path)
        if not await asyncio.to_thread(Path(path).is_file):
            return {"error": _("{path} does not exist").format(path=path), "fix": ""}
        arguments = ["checkpoint", "inspect", path, "--json", "--weights", pretrained.weights]
        if pretrained.decoder_path:
            arguments += ["--decoder-checkpoint", os.path.expanduser(pretrained.decoder_path)]
        return await ubq_json(*arguments, timeout=INSPECT_S)

    def _live(self, text: Text | str) -> None:
        self.query_one("#live", Static).update(text)
        self.call_after_refresh(self._let_scroll)

    def _let_scroll(self) -> None:
        """The live pane takes the focus only where it has more than it shows."""
        pane = self.query_one("#live-scroll")
        pane.can_focus = pane.max_scroll_y > 0

    # Ending

    @on(Button.Pressed, "#save")
    def _save_only(self) -> None:
        if self._saved():
            self.notify(_("wrote {file}; start it with: ubq run").format(file=self.draft.file), timeout=6, markup=False)
            self.dismiss()

    @on(Button.Pressed, "#begin")
    def _begin(self) -> None:
        if self._saved():
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


def _checks_text(checks: list[Mapping[str, Any]], named: bool = False) -> Text:
    """Checks, one or two lines each; ``named`` with what each looked at."""
    text = Text()
    for check in checks:
        text.append(f"{check_word(check['status'])}  ", style="bold" if check["status"] != "ok" else "")
        text.append(f"{check['id']}: {check['figure']}\n" if named else f"{check['figure']}\n")
        if check["status"] != "ok" and check["fix"]:
            text.append(f"   {check['fix']}\n")
    text.rstrip()
    return text


def _plan_text(answer: Mapping[str, Any], draft: Draft) -> Text:
    """Whether the run can start, and what a start would do with its folder."""
    if "error" in answer:
        return Text()
    wrong = [c for c in answer["checks"] if c["status"] != "ok"]
    text = _checks_text(wrong) if wrong else Text(_("All checks passed: Start begins the run."))
    text.append("\n" + _("run {run} in {folder}").format(run=draft.run_folder.name, folder=draft.run_folder.parent))
    if answer["exists"]:
        text.append("\n" + _("It is there already; what is not up to date runs:"))
        for item in answer["plan"]:
            text.append(f"\n  {item['name']}: {item['action']}")
    return text


def _estimate_text(answer: Mapping[str, Any], threads: int) -> Text:
    """Memory of each stage beside what is there, size on the Pi, time."""
    from ubq.cpu import cores

    text = Text()
    available = answer["available"]
    worst = max(answer["memory"].values(), default=0)
    word = check_word("ok" if worst <= available else "warning")
    text.append(
        _("{word}: training needs up to {worst}, {available} are available").format(
            word=word, worst=cost.bytes_text(worst), available=cost.bytes_text(available)
        )
    )
    size = cost.bytes_text(answer["file_bytes"])
    time = cost.time_text(answer, threads or cores(), on_gpu=answer.get("on_gpu", False))
    text.append("\n" + _("file on the Pi: {size}; {time}").format(size=size, time=time))
    text.append("\n" + ", ".join(f"{stage} {cost.bytes_text(needed)}" for stage, needed in answer["memory"].items()))
    return text


def _checkpoint_text(found: Mapping[str, Any]) -> Text:
    """What a checkpoint holds."""
    if "error" in found:
        return Text(f"! {found['error']} {found['fix']}".rstrip())
    text = Text()
    if found["problem"]:
        text.append(f"! {found['problem']}\n", style="bold")
    sizes = found["sizes"]
    text.append(
        _("{container}, variant {variant}, ({dim}; {mults})").format(
            container=found["container"],
            variant=found["variant"],
            dim=sizes.get("encoder_dim"),
            mults=", ".join(map(str, sizes.get("dim_mults", ()))),
        )
    )
    total = found["parameters"]["total"]
    text.append(
        "\n" + _("{count:.1f} M parameters, {weights} weights").format(count=total / 1e6, weights=found["weights"])
    )
    text.append("\n" + _("ranges of {name}").format(name=found["normalization"]))
    if found["absent"]:
        text.append("\n! " + _("absent: {parts}").format(parts=", ".join(found["absent"])))
    for note in found["notes"]:
        text.append(f"\n{note}")
    return text


def focused_field(widget: Widget | None) -> Field | None:
    """The field that holds a widget."""
    return next((n for n in widget.ancestors_with_self if isinstance(n, Field)), None) if widget else None
