"""The first screen: the runs that are here, and what a new one can build on."""

from __future__ import annotations

import asyncio
import time
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ubq.config import presets
from ubq.errors import EXIT_MARK_FAILED, UbqError
from ubq.figures import duration
from ubq.i18n import gettext as _
from ubq.jobs.state import COMPLETED
from ubq.jobs.status import Snapshot, percent, run_folders, snapshot
from ubq.plaintext import printable
from ubq.tui import cost
from ubq.tui.dialogs import Keys, Menu
from ubq.tui.words import padded, state_word

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp

FIRST = ("smoke", "demo")
"""Presets for a first try, above those of real data sets."""
REFRESH_S = 2.0


@dataclass(frozen=True)
class Run:
    """A line of the list of runs."""

    folder: Path
    state: str
    where: str
    age: str
    preset: str = ""
    seconds: float = 0.0
    """What its stages took, where all are complete."""


def runs_in(runs_dir: Path) -> list[Run]:
    """The runs of a folder, newest first; one that cannot be read says so."""
    found: list[Run] = []
    try:
        folders = run_folders(runs_dir)
    except UbqError:
        return found  # the folder itself may not be read
    for folder in folders:
        try:
            shot = snapshot(folder)
        except (UbqError, OSError):
            continue  # it went away meanwhile
        state = shot.state
        seconds = sum(s.seconds for s in state.stages) if state.state == COMPLETED else 0.0
        found.append(Run(folder, shot.shown, where(shot), age(state.updated), state.preset, seconds))
    return found


def where(shot: Snapshot) -> str:
    """Stage and percentage that a run has reached."""
    if shot.state.exit_code == EXIT_MARK_FAILED:
        return _("a success mark failed")
    current = next((s for s in shot.state.stages if s.state != "completed"), None)
    if current is None:
        return "100 %" if shot.state.stages else ""
    return f"{current.name} {percent(current.step, current.steps, current.state):.0f} %"


def age(updated: str) -> str:
    """How long ago something was written."""
    try:
        seconds = time.time() - datetime.fromisoformat(updated).timestamp()
    except ValueError:
        return ""
    return _("{time} ago").format(time=duration(max(0.0, seconds)))


class StartScreen(Screen[None]):
    """Open or resume a run, or begin a new one."""

    help_text = _(
        "Runs found here stand above, presets for a new run below. Enter opens a run, or the wizard on a preset. "
        "A job runs on its own: leaving this program does not stop it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "resume", _("resume"), id="start.resume"),
        Binding("n", "new", _("new run"), id="start.new"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[Run] = []
        self._facts = cost.preset_facts()
        self._presets = {p.name: _(p.description) for p in presets.listing()}

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

    def compose(self) -> ComposeResult:
        yield Static(_("ubq: int8 generators of velocity maps and seismic data"), classes="title", markup=False)
        with Vertical(id="start"):
            yield Menu(id="list")
            yield Static("", id="about", markup=False)
        yield Keys()

    def on_mount(self) -> None:
        self._runs = runs_in(self.ubq.runs_dir)
        self._fill()
        self.query_one(OptionList).focus()
        self._watch()

    @work(exclusive=True)
    async def _watch(self) -> None:
        """RunView at the runs now and then, while this screen is on top."""
        while True:
            await asyncio.sleep(REFRESH_S)
            if self.is_current:
                self._take(await asyncio.to_thread(runs_in, self.ubq.runs_dir))

    def on_screen_resume(self) -> None:
        self._take(runs_in(self.ubq.runs_dir))

    def _take(self, runs: list[Run]) -> None:
        if not self.query("#about"):
            return  # the screen is being closed
        before, self._runs = self._runs, runs
        options = self.query_one(OptionList)
        if [r.folder for r in before] != [r.folder for r in runs]:
            self._fill()
            return
        for old, new in zip(before, runs, strict=True):
            if old != new:
                options.replace_option_prompt(f"run:{new.folder}", self._run_line(new))

    def _fill(self) -> None:
        """Make the list anew, the highlight on what it was on."""
        options = self.query_one(OptionList)
        held = options.highlighted_option.id if options.highlighted_option else None
        options.clear_options()

        def heading(words: str) -> Option:
            return Option(Text(words, style="bold underline"), disabled=True)

        options.add_option(heading(_("Runs in {folder}").format(folder=self.ubq.runs_dir)))
        for run in self._runs:
            options.add_option(Option(self._run_line(run), id=f"run:{run.folder}"))
        if not self._runs:
            options.add_option(Option(Text("  " + _("none yet")), disabled=True))
        options.add_option(heading(_("New run")))
        if self.ubq.file.is_file():
            words = _("what {file} says").format(file=self.ubq.file)
            options.add_option(Option(Text(f"  {words}"), id="file"))
        for name in [*FIRST, *(n for n in self._presets if n not in FIRST)]:
            line = Text(f"  {name:<18} ", no_wrap=True, overflow="ellipsis")
            line.append(self._presets.get(name, ""))
            options.add_option(Option(line, id=f"preset:{name}"))
        ids = [o.id for o in options.options]
        first = next((i for i, o in enumerate(options.options) if not o.disabled), 0)
        options.highlighted = ids.index(held) if held and held in ids else first

    def _run_line(self, run: Run) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"  {padded(printable(run.folder.name), 18)} ")
        line.append(padded(state_word(run.state), 13), style="bold")
        line.append(f" {padded(run.where, 24)} {run.age}")
        return line

    @on(OptionList.OptionHighlighted)
    def _describe(self, event: OptionList.OptionHighlighted) -> None:
        self.query_one("#about", Static).update(self._about(event.option.id or ""))

    def _about(self, item: str) -> str:
        kind, _colon, name = item.partition(":")
        if kind == "run":
            return _("Enter shows its progress and its result; r goes on with a run that stopped.")
        if kind == "file":
            return _("Enter opens the wizard on {file}: {about}").format(file=self.ubq.file, about=self._file_about())
        if kind == "preset" and name in self._facts:
            from ubq.cpu import cores

            facts = self._facts[name]
            return "\n".join(
                (
                    f"{name}: {self._presets[name]}",
                    _("on the Pi {size}; memory for training {memory}; {time}").format(
                        size=cost.bytes_text(facts["file_bytes"]),
                        memory=cost.bytes_text(facts["memory_bytes"]),
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
            extends = tomllib.loads(self.ubq.file.read_text(encoding="utf-8-sig")).get("extends", "")
        except (OSError, ValueError) as error:
            return printable(str(error))
        return _("it extends {preset}").format(preset=printable(str(extends or "-")))

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._open(event.option.id or "")

    def action_new(self) -> None:
        """Go to the presets."""
        options = self.query_one(OptionList)
        options.highlighted = next(i for i, o in enumerate(options.options) if o.id == f"preset:{FIRST[0]}")
        options.focus()

    def action_resume(self) -> None:
        option = self.query_one(OptionList).highlighted_option
        kind, _colon, name = (option.id or "" if option else "").partition(":")
        if kind != "run":
            self.notify(_("choose a run to resume"), timeout=3)
            return
        from ubq.tui.progress import ProgressScreen

        self.app.push_screen(ProgressScreen(Path(name), resume=True))

    def _open(self, item: str) -> None:
        kind, _colon, name = item.partition(":")
        if kind == "run":
            self.ubq.open_run(Path(name))
        elif kind in ("file", "preset"):
            self.ubq.open_wizard(name)
