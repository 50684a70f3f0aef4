"""The first screen: the runs that are here, and what a new one can build on."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from ubq.config import presets
from ubq.durable import read_text
from ubq.errors import UbqError
from ubq.figures import duration, padded
from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.slurm.manage import delete_run, rename_run
from ubq.tui import cost
from ubq.tui.dialogs import Ask, AskLine, Keys, LineBox, Menu, Messages
from ubq.tui.runlist import Run, lines_of, runs_in

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp

FIRST = ("smoke", "demo")
"""Presets for a first try, above those of real data sets."""
REFRESH_S = 2.0
OF_RUNS = ("edit", "duplicate", "rename", "delete", "compare")
"""Actions on a run of the list."""


class StartScreen(Screen[None]):
    """Open or resume a run, or begin a new one."""

    help_text = _(
        "Runs found here stand above, presets for a new run below, by data set and size. Enter opens a run, or the "
        "wizard on a preset; / shows what holds a word. A run can be opened in the wizard again with its values, "
        "copied, renamed, deleted and compared with another. A job runs on its own: leaving this program does not "
        "stop it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "resume", _("resume"), id="start.resume"),
        Binding("n", "new", _("new run"), id="start.new"),
        Binding("e", "edit", _("edit"), id="start.edit"),
        Binding("d", "duplicate", _("duplicate"), id="start.duplicate", show=False),
        Binding("m", "rename", _("rename"), id="start.rename", show=False),
        Binding("x", "delete", _("delete"), id="start.delete", show=False),
        Binding("c", "compare", _("compare"), id="start.compare", show=False),
        Binding("slash", "filter", _("filter"), id="start.filter", key_display="/"),
        Binding("escape", "unfilter", _("show all"), id="start.unfilter", key_display="esc"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[Run] = []
        self._facts = cost.preset_facts()
        self._presets = {p.name: _(p.description) for p in presets.listing()}
        self._pattern = ""
        self._beside: Path | None = None
        """The run that another one is to be compared with."""

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

    def compose(self) -> ComposeResult:
        yield Static(_("ubq: int8 generators of velocity maps and seismic data"), classes="title", markup=False)
        with Vertical(id="start"):
            yield LineBox(_("show what holds …"), "filter")
            yield Menu(id="list")
            yield Static("", id="about", markup=False)
        yield Messages()
        yield Keys()

    def on_mount(self) -> None:
        self._runs = runs_in(self.ubq.runs_dir)
        self._fill()
        self.query_one(OptionList).focus()
        self._watch()

    def on_resize(self, event: events.Resize) -> None:
        self._fill()

    @work(exclusive=True)
    async def _watch(self) -> None:
        """Look at the runs now and then, while this screen is on top."""
        while True:
            await asyncio.sleep(REFRESH_S)
            if self.is_current:
                self._take(await asyncio.to_thread(runs_in, self.ubq.runs_dir))

    def on_screen_resume(self) -> None:
        self._take(runs_in(self.ubq.runs_dir))
        recent, self.ubq.recent = self.ubq.recent, None
        options = self.query_one(OptionList)
        ids = [option.id for option in options.options]
        if recent is not None and f"run:{recent}" in ids:
            options.highlighted = ids.index(f"run:{recent}")

    def _take(self, runs: list[Run]) -> None:
        if not self.query("#about"):
            return  # the screen is being closed
        before, self._runs = self._runs, runs
        if before != runs:
            self._fill()

    def _holds(self, *texts: str) -> bool:
        return any(self._pattern.casefold() in text.casefold() for text in texts)

    def _fill(self) -> None:
        """Make the list anew, the highlight on what it was on."""
        options = self.query_one(OptionList)
        held = options.highlighted_option.id if options.highlighted_option else None
        top = options.scroll_offset.y
        options.clear_options()
        options.add_options([*self._run_options(), *self._preset_options()])
        ids = [o.id for o in options.options]
        first = next((i for i, o in enumerate(options.options) if not o.disabled), None)
        options.highlighted = ids.index(held) if held and held in ids else first
        if held in ids:
            options.scroll_to(y=top, animate=False)
        self.refresh_bindings()

    def _run_options(self) -> list[Option]:
        options = [_heading(_("Runs in {folder}").format(folder=self.ubq.runs_dir))]
        runs = [run for run in self._runs if self._holds(run.folder.name, run.preset)]
        lines = lines_of(runs, self.size.width - 1)  # the scroll bar
        options += [Option(line, id=f"run:{run.folder}") for run, line in zip(runs, lines, strict=True)]
        if not runs:
            none = _("none yet") if not self._runs else _("none of that name")
            options.append(Option(Text("  " + none), disabled=True))
        return options

    def _preset_options(self) -> list[Option]:
        """What a new run can build on: the file, those for a first try, then each data set's by size."""
        options = [_heading(_("New run"))]
        words = _("what {file} says").format(file=self.ubq.file)
        if self.ubq.file.is_file() and self._holds(words):
            options.append(Option(Text(f"  {words}"), id="file"))
        shown = [name for name, about in self._presets.items() if self._holds(name, about)]
        for name in FIRST:
            if name in shown:
                line = Text(f"  {name:<8} {self._presets[name]}", no_wrap=True, overflow="ellipsis")
                options.append(Option(line, id=f"preset:{name}"))
        data_set = ""
        for name in (n for n in shown if n not in FIRST):
            # The description begins with the data set's name and what it shows.
            family, _separator, size = self._presets[name].replace("，", ", ").partition(", ")
            if family != data_set:
                data_set = family
                options.append(_heading(family))
            facts = self._facts.get(name)
            pi = "" if facts is None else _("{size} on the Pi").format(size=cost.bytes_text(facts["file_bytes"]))
            line = Text(f"  {name:<18} {padded(pi, 17)} {size}", no_wrap=True, overflow="ellipsis")
            options.append(Option(line, id=f"preset:{name}"))
        return options

    # The filter

    def action_filter(self) -> None:
        self.query_one("#filter", LineBox).open()

    @on(Input.Changed, "#filter")
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        self._pattern = event.value.strip()
        self._fill()

    @on(Input.Submitted, "#filter")
    def _filtered(self, event: Input.Submitted) -> None:
        event.stop()
        event.input.display = bool(event.value)
        self.query_one(OptionList).focus()

    def action_unfilter(self) -> None:
        box = self.query_one("#filter", Input)
        box.value, box.display = "", False
        self.query_one(OptionList).focus()

    @on(OptionList.OptionHighlighted)
    def _describe(self, event: OptionList.OptionHighlighted) -> None:
        self.query_one("#about", Static).update(self._about(event.option.id or ""))
        self.refresh_bindings()

    def _about(self, item: str) -> str:
        kind, _colon, name = item.partition(":")
        if kind == "run":
            run = self._run
            lines = [printable(name)] if run is None else [printable(f"{run.folder}  {run.where}")]
            lines.append(
                _("Enter: progress and result. e: edit and run again, d: duplicate, c: compare, m: rename, x: delete.")
            )
            return "\n".join(lines)
        if kind == "file":
            return _("Enter opens the wizard on {file}: {about}").format(file=self.ubq.file, about=self._file_about())
        if kind == "preset" and name in self._facts:
            from ubq.cpu import cores

            facts = self._facts[name]
            return "\n".join(
                (
                    f"{name}: {self._presets[name]}",
                    _("on the Pi {size}; memory for training {memory}, disk {disk}; {time}").format(
                        size=cost.bytes_text(facts["file_bytes"]),
                        memory=cost.bytes_text(facts["memory_bytes"]),
                        disk=cost.bytes_text(facts["disk"]),
                        time=self._time_taken(name) or cost.time_text(facts, cores()),
                    ),
                )
            )
        return self._presets.get(name, "")

    def _time_taken(self, preset: str) -> str:
        """What the newest finished run of a preset took; empty where there is none."""
        run = next((r for r in self._runs if r.preset == preset and r.seconds), None)
        return (
            _("run {run} took {time}").format(run=printable(run.folder.name), time=duration(run.seconds)) if run else ""
        )

    def _file_about(self) -> str:
        try:
            extends = tomllib.loads(read_text(self.ubq.file)).get("extends", "")
        except (OSError, ValueError) as error:
            return printable(str(error))
        return _("it extends {preset}").format(preset=printable(str(extends or "-")))

    def action_new(self) -> None:
        """Go to the presets."""
        options = self.query_one(OptionList)
        first = next((i for i, o in enumerate(options.options) if (o.id or "").startswith("preset:")), None)
        if first is not None:  # a filter may hide them all
            options.highlighted = first
        options.focus()

    @property
    def _run(self) -> Run | None:
        """The run under the highlight."""
        option = self.query_one(OptionList).highlighted_option
        name = (option.id or "") if option else ""
        return next((run for run in self._runs if name == f"run:{run.folder}"), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key is shown where it cannot act."""
        if not self.query("#about"):
            return True
        if action == "unfilter":
            return bool(self._pattern) or self.query_one("#filter", Input).has_focus
        run = self._run
        if action == "resume":
            return run is not None and run.resumable
        if action in ("edit", "rename", "delete"):
            return run is not None and not run.running
        return action not in OF_RUNS or run is not None

    def action_resume(self) -> None:
        from ubq.tui.progress import ProgressScreen

        if run := self._run:
            self.app.push_screen(ProgressScreen(run.folder, resume=True))

    def action_edit(self) -> None:
        if run := self._run:
            self.ubq.open_again(run.folder)

    def action_duplicate(self) -> None:
        if run := self._run:
            self.ubq.open_again(run.folder, copy=True)

    def action_rename(self) -> None:
        if run := self._run:
            name = run.folder.name
            question = _("New name of {run}").format(run=printable(name))
            self.app.push_screen(AskLine(question, name), lambda new: self._rename(run.folder, new))

    def _rename(self, folder: Path, name: str | None) -> None:
        if name and name != folder.name:
            self._rename_beside(folder, name)

    @work(thread=True)
    def _rename_beside(self, folder: Path, name: str) -> None:
        try:
            self.ubq.recent = rename_run(folder, name)
        except UbqError as error:
            self.app.call_from_thread(self.ubq.tell, error.message, error.fix)
        self.app.call_from_thread(self.on_screen_resume)

    def action_delete(self) -> None:
        """Delete a run; asked twice, for nothing brings it back."""
        run = self._run
        if run is None:
            return
        name = printable(run.folder.name)
        keep, delete = ("keep", _("keep it")), ("delete", _("delete it"))
        first = _("Delete {run} with its checkpoints and its exported files?").format(run=name)
        second = _("{folder} will be gone for good. Delete it?").format(folder=printable(str(run.folder.absolute())))

        def on_answer(answer: str | None) -> None:
            if answer == "delete":
                self._delete(run.folder)

        def again(answer: str | None) -> None:
            if answer == "delete":
                self.app.push_screen(Ask(second, (keep, delete)), on_answer)

        self.app.push_screen(Ask(first, (keep, delete)), again)

    @work(thread=True)
    def _delete(self, folder: Path) -> None:
        try:
            delete_run(folder)
        except UbqError as error:
            self.app.call_from_thread(self.ubq.tell, error.message, error.fix)
        else:
            words = _("deleted {run}").format(run=printable(folder.name))
            self.app.call_from_thread(self.notify, words, markup=False)
        self.app.call_from_thread(self._take, runs_in(self.ubq.runs_dir))

    def action_compare(self) -> None:
        """The first time remembers a run, the second time shows both."""
        from ubq.tui.compare import CompareScreen

        run = self._run
        if run is None:
            return
        if self._beside is None or self._beside == run.folder:
            self._beside = run.folder
            words = _("{run} beside which other run? Choose it and press c again")
            self.notify(words.format(run=printable(run.folder.name)), timeout=30, markup=False)
        else:
            beside, self._beside = self._beside, None
            self.ubq.notice = ""
            self.app.push_screen(CompareScreen(beside, run.folder))

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._open(event.option.id or "")

    def _open(self, item: str) -> None:
        kind, _colon, name = item.partition(":")
        if kind == "run":
            self.ubq.open_run(Path(name))
        elif kind in ("file", "preset"):
            self.ubq.open_wizard(name)


def _heading(words: str) -> Option:
    return Option(Text(words, style="bold underline", no_wrap=True, overflow="ellipsis"), disabled=True)
