"""The result: success marks, files, next commands, and what is wrong with its cause and its fix."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ubq.config.keys import toml_value
from ubq.config.runs import command, place_of
from ubq.errors import UbqError, UsageError
from ubq.figures import padded
from ubq.i18n import gettext as _
from ubq.jobs.checks.check import Check, check_name
from ubq.jobs.checks.run import marks, run_state
from ubq.jobs.frozen import load_frozen
from ubq.jobs.status import snapshot
from ubq.plaintext import printable
from ubq.stages.paths import RunPaths
from ubq.tui import cost
from ubq.tui.dialogs import Ask, Keys, Menu, Messages
from ubq.tui.draft import apply_to_file, resume_arguments
from ubq.tui.picture import PictureScreen
from ubq.tui.processes import ubq_json
from ubq.tui.words import check_word

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp

DOCTOR_S = 300.0


@dataclass(frozen=True)
class Line:
    """A line of the list: what it says, what is behind it, what copying it copies."""

    id: str
    text: str
    detail: str
    copied: str = ""
    apply: Mapping[str, object] | None = None


def check_line(check: Check) -> Line:
    """A check as a line; its detail has the figure, why it matters, and the fix."""
    name = check.id.partition(".")[2] or check.id
    title = _mark_title(name) if check.id.startswith("marks.") else check_name(check.id)
    parts = []  # what to do first: the pane has few rows
    if check.fix:
        parts.append(_("fix: {fix}").format(fix=check.fix))
    if check.apply:
        keys = ", ".join(f"{k} = {toml_value(v)}" for k, v in check.apply.items())
        parts.append(_("a applies it: {keys}").format(keys=keys))
    parts.append(_("{what}: {figure}").format(what=title, figure=check.figure))
    if check.why:
        parts.append(_("why: {why}").format(why=check.why))
    text = f"{padded(check_word(check.status), 10)} " + _("{what}: {figure}").format(what=title, figure=check.figure)
    return Line(f"check:{check.id}", text, "\n".join(parts), check.fix or check.figure, check.apply or None)


def _mark_title(mark: str) -> str:
    from ubq.verify.report import title

    return title(mark)


def run_checks(folder: Path) -> list[Check]:
    """How the run ended and its success marks: what can be told without torch. The objects are doctor's."""
    try:
        config = load_frozen(RunPaths(folder))
        return in_words([*run_state(config, folder), *_preflight(folder), *marks(config, folder)], folder)
    except UbqError as error:
        problem = Check(id="run.readable", status="failed", figure=error.message, fix=error.fix)
    except OSError as error:
        problem = Check(id="run.readable", status="failed", figure=str(error))
    return [problem, *_reported(folder).values()]


def in_words(checks: Sequence[Check], folder: Path) -> list[Check]:
    """The checks, the figures of success marks as people read them: 13 MB, 40.7 %, wanted > 30 %."""
    reported = _reported(folder)
    return [dataclasses.replace(c, figure=reported[c.id].figure) if c.id in reported else c for c in checks]


def _preflight(folder: Path) -> list[Check]:
    """What the checks before the start found, where it was not in order."""
    names = {f.name for f in dataclasses.fields(Check)}
    checks: list[Check] = []
    for entry in cast("list[dict[str, Any]]", snapshot(folder).state.preflight):
        if entry.get("status") in ("warning", "failed") and {"id", "figure"} <= set(entry):
            check = Check(**{k: v for k, v in entry.items() if k in names})
            checks.append(dataclasses.replace(check, id=f"preflight.{check.id}"))
    return checks


def _reported(folder: Path) -> dict[str, Check]:
    """The marks as the report has them, by id; what fixes them depends on the configuration."""
    from ubq.verify.report import Report, threshold_text, value_text

    try:
        report = Report.read(RunPaths(folder).exported / "report.json")
    except UbqError:
        return {}
    figure = _("{value}, wanted {threshold}; {how}")
    checks = [
        Check(
            id=f"marks.{m.id}",
            status="ok" if m.passed else "failed",
            figure=figure.format(value=value_text(m), threshold=threshold_text(m), how=m.how),
        )
        for m in report.marks
    ]
    return {c.id: c for c in checks}


def file_lines(folder: Path) -> list[Line]:
    """Exported files and pictures with their sizes."""
    lines = []
    paths = RunPaths(folder)
    try:
        files = sorted(p for p in paths.exported.iterdir() if p.is_file())
    except OSError:
        return []
    for path in files:
        size = cost.bytes_text(path.stat().st_size)
        detail = printable(str(path.absolute()))
        if path.suffix == ".png":
            detail += "\n" + _("Enter shows it here.")
        lines.append(Line(f"file:{path}", printable(f"{path}  {size}"), detail, str(path)))
    return lines


def next_lines(folder: Path) -> list[Line]:
    """The commands that bring the model to the Pi."""
    models = sorted(RunPaths(folder).exported.glob("*.pt")) if RunPaths(folder).exported.is_dir() else []
    lines = []
    for model in models:
        deploy = ["ubq", "deploy", "pi@raspberrypi.local:ubq", folder.name, "--smoke", *place_of(folder)]
        commands = (
            (_("copy it to the Pi and try it there"), command(*deploy)),
            (_("copy the file alone"), command("scp", str(model), f"pi@raspberrypi.local:{model.name}")),
            (_("one pair from it here"), command("ubq", "sample", str(model))),
        )
        guide = RunPaths(folder).exported / "deployment_guide.md"
        about = _("All steps stand in {guide}.").format(guide=guide)
        lines += [Line(f"next:{line}", f"{words}: {line}", f"{line}\n{about}", line) for words, line in commands]
    return lines


class ChecklistScreen(Screen[None]):
    """The checklist of one run."""

    help_text = _(
        "What the run reached, and what to do where it did not. Failed marks stand first; the pane shows why each "
        "matters and what fixes it. a writes a fix into the configuration and goes on with the run."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "apply", _("apply"), id="checklist.apply"),
        Binding("y", "copy", _("copy"), id="checklist.copy"),
        Binding("d", "doctor", _("doctor"), id="checklist.doctor"),
        Binding("o,escape", "close", _("back"), id="checklist.close", key_display="esc"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._lines: dict[str, Line] = {}
        self._held = False

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

    def compose(self) -> ComposeResult:
        yield Static("", id="summary-line", classes="title", markup=False)
        yield Static(self._preset(), id="preset-line", markup=False)
        with Horizontal(id="checklist"):
            yield Menu(id="list")
            with VerticalScroll(id="detail-scroll"):
                yield Static("", id="detail", markup=False)
        yield Messages()
        yield Keys()

    def on_mount(self) -> None:
        with contextlib.suppress(UbqError, OSError):
            self._held = snapshot(self.folder).running
        self._fill(run_checks(self.folder))
        self.query_one(OptionList).focus()

    def _preset(self) -> str:
        """What the run's preset is for: a run of one that is for tests passes few marks."""
        from ubq.config import presets

        try:
            name = snapshot(self.folder).state.preset
        except (UbqError, OSError):
            return ""
        about = next((p.description for p in presets.listing() if p.name == name), "")
        return _("preset {preset}: {about}").format(preset=name, about=_(about)) if about else ""

    def _fill(self, checks: Sequence[Check]) -> None:
        options = self.query_one(OptionList)
        held = options.highlighted_option.id if options.highlighted_option else None
        options.clear_options()
        mark_checks = [c for c in checks if c.id.startswith("marks.")]
        others = [c for c in checks if not c.id.startswith("marks.")]
        order = {"failed": 0, "warning": 1, "ok": 2}
        groups = [
            (_("success marks"), [check_line(c) for c in sorted(mark_checks, key=lambda c: order[c.status])]),
            (_("the run"), [check_line(c) for c in sorted(others, key=lambda c: order[c.status])]),
            (_("files"), file_lines(self.folder)),
            (_("next"), next_lines(self.folder)),
        ]
        self._lines = {}
        for heading, lines in groups:
            if not lines:
                continue
            options.add_option(Option(Text(heading, style="bold underline"), disabled=True))
            for line in lines:
                if line.id not in self._lines:
                    self._lines[line.id] = line
                    prompt = Text(f"  {line.text}", no_wrap=True, overflow="ellipsis")
                    options.add_option(Option(prompt, id=line.id))
        ids = [o.id for o in options.options]
        options.highlighted = (
            ids.index(held) if held and held in ids else next((i for i, n in enumerate(ids) if n), None)
        )
        self.query_one("#summary-line", Static).update(self._summary(mark_checks))

    def _summary(self, mark_checks: Sequence[Check]) -> str:
        if not mark_checks:
            return _("{run}: no report yet").format(run=printable(self.folder.name))
        passed = sum(c.status == "ok" for c in mark_checks)
        if passed == len(mark_checks):
            return _("{run}: all {count} success marks passed").format(run=printable(self.folder.name), count=passed)
        failed = len(mark_checks) - passed
        text = _("{run}: {failed} of {count} success marks failed; see each for the fix")
        return text.format(run=printable(self.folder.name), failed=failed, count=len(mark_checks))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key is shown where it cannot act."""
        line = self._line if self.query("#list") else None
        if action == "apply":
            return line is not None and bool(line.apply) and not self._held
        return action != "copy" or line is not None

    @property
    def _line(self) -> Line | None:
        highlighted = self.query_one(OptionList).highlighted_option
        return self._lines.get(highlighted.id or "") if highlighted else None

    @on(OptionList.OptionHighlighted)
    def _detail(self, event: OptionList.OptionHighlighted) -> None:
        line = self._lines.get(event.option.id or "")
        self.query_one("#detail", Static).update(line.detail if line else "")
        self.query_one("#detail-scroll").scroll_home(animate=False)
        self.refresh_bindings()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        line = self._line
        if line is not None and line.apply:
            self.action_apply()
        elif line is not None and line.id.endswith(".png"):
            self.app.push_screen(PictureScreen(Path(line.copied)))
        else:
            self.query_one("#detail-scroll").focus()

    def action_close(self) -> None:
        options = self.query_one(OptionList)
        if options.has_focus:
            self.dismiss()
        else:
            options.focus()

    def action_copy(self) -> None:
        line = self._line
        if line is not None:
            self.ubq.copy(line.copied or line.text)

    @work(exclusive=True, group="doctor")
    async def action_doctor(self) -> None:
        """All of ``ubq doctor``, in a process of its own: it looks into checkpoints and at the machine."""
        self.query_one("#summary-line", Static).update(
            _("{run}: checking everything …").format(run=printable(self.folder.name))
        )
        answer = await ubq_json("doctor", str(self.folder.absolute()), "--json", timeout=DOCTOR_S)
        if not self.query("#detail"):
            return  # the screen is being closed
        checks = in_words([Check(**c) for c in answer.get("checks", [])], self.folder)
        if "error" in answer:
            self.ubq.tell(answer["error"], answer["fix"])
        self._fill(checks or await asyncio.to_thread(run_checks, self.folder))

    # Applying a fix

    def action_apply(self) -> None:
        line = self._line
        if line is None or not line.apply:
            return
        if snapshot(self.folder).running:
            self.notify(_("it is running; stop it first"), timeout=4)
            return
        keys = "\n".join(f"  {k} = {toml_value(v)}" for k, v in line.apply.items())
        question = _("Write into the configuration:\n{keys}\nand go on with {run}? Stages that depend on it run again.")
        answers = (("apply", _("apply and go on")), ("leave", _("leave it")))
        apply = dict(line.apply)
        self.app.push_screen(
            Ask(question.format(keys=keys, run=printable(self.folder.name)), answers),
            lambda answer: self._apply(apply) if answer == "apply" else None,
        )

    def _apply(self, apply: Mapping[str, object]) -> None:
        from ubq.tui.progress import ProgressScreen

        try:
            written = apply_to_file(self.ubq.file, apply, self.folder)
        except UsageError as error:
            self.ubq.tell(error.message, error.fix)
            return
        if written:
            self.notify(_("wrote {file}").format(file=self.ubq.file), timeout=4, markup=False)
        self.app.switch_screen(ProgressScreen(self.folder, arguments=resume_arguments(self.folder, apply)))
