"""Following a run, whoever started it: stages, loss curves, log; stop and resume."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Input, RichLog, Static

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.jobs.detach import Detached, start_detached, stop_run
from ubq.jobs.owner import pid_is_local, start_token
from ubq.jobs.state import COMPLETED, CRASHED, RUNNING
from ubq.jobs.status import Snapshot
from ubq.plaintext import printable
from ubq.states import phase_word
from ubq.tui.curves import Curves
from ubq.tui.dialogs import Ask, Keys, LineBox, Messages
from ubq.tui.runview import RunReader, RunView
from ubq.tui.stagelist import Stages
from ubq.tui.words import SIGNS, state_word

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp

POLL_S = 0.5
"""However fast rows come, they are taken in this often: a glance costs the same for one row as for hundreds."""


class ProgressScreen(Screen[None]):
    """One run.

    Args:
        folder: of the run.
        arguments: ``ubq`` command line that starts it; empty: only look.
        resume: go on with it if it is not running.
    """

    help_text = _(
        "A run, as its files say. It goes on whether this screen is open or not; s asks it to save and stop, "
        "r goes on from the last checkpoint."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", _("stop"), id="progress.stop"),
        Binding("r", "resume", _("resume"), id="progress.resume"),
        Binding("c", "checklist", _("checklist"), id="progress.checklist"),
        Binding("l", "log", _("log"), id="progress.log"),
        Binding("slash", "filter", _("filter"), id="progress.filter", key_display="/"),
        Binding("plus", "zoom(True)", _("zoom in"), id="progress.zoom", show=False),
        Binding("minus", "zoom(False)", _("zoom out"), id="progress.unzoom", show=False),
        Binding("v", "axis", _("axis of the losses"), id="progress.axis", show=False),
        Binding("o,escape", "other", _("runs"), id="progress.other", key_display="o"),
    ]

    def __init__(self, folder: Path, arguments: Sequence[str] = (), resume: bool = False) -> None:
        super().__init__()
        self.folder = folder
        self._arguments = list(arguments)
        self._resume_at_once = resume
        self._reader = RunReader(folder)
        self._pattern = ""
        self._was_running = bool(arguments)
        self._starting = bool(arguments)
        self._job = 0
        self._head_shown = Text()
        self._problem_shown = ""
        self._load_shown = ""

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key is shown where it cannot act."""
        stages = self.query(Stages)
        shot = stages.first().shot if stages else None
        if action == "stop":
            return shot is not None and shot.running
        if action == "resume":
            return shot is not None and not shot.running and shot.shown != COMPLETED and not self._starting
        return True

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        yield Static("", id="load", markup=False)
        yield Static("", id="problem", markup=False)
        yield Stages()
        with Horizontal(id="below"):
            yield Curves(self._reader)
            with Vertical(id="log-box"):
                yield LineBox(_("show lines that hold …"), "filter")
                yield RichLog(
                    id="log", max_lines=2000, wrap=True, markup=False, highlight=False, min_width=0, auto_scroll=False
                )
        yield Messages()
        yield Keys()

    def on_mount(self) -> None:
        for name in ("load", "problem"):
            self.query_one(f"#{name}", Static).display = False
        self.query_one("#log", RichLog).anchor()  # at its end, whatever its size becomes, until someone scrolls up
        self.query_one(Stages).focus()
        self._show(self._reader.look(measured=False))
        self._follow()
        if self._arguments:
            self._start(self._arguments)
        elif self._resume_at_once:
            self.action_resume()

    @work(exclusive=True, group="follow")
    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                self._show(await asyncio.to_thread(self._reader.look))
            except NoMatches:
                return  # the screen is being closed: some of its parts are gone

    def _show(self, view: RunView) -> None:
        stages = self.query_one(Stages)
        problem = self.query_one("#problem", Static)
        wrong = view.problem or (_error_text(view.shot) if view.shot else "")
        if wrong != self._problem_shown:
            self._problem_shown = wrong
            problem.display = bool(wrong)
            problem.update(f"! {wrong}")
        if view.shot is not None:
            before, stages.shot = stages.shot, view.shot
            if before is None or before.shown != view.shot.shown:
                self.refresh_bindings()
            head = self._head(view.shot)
            if head != self._head_shown:
                self._head_shown = head
                self.query_one("#head", Static).update(head)
        load = view.load.words if view.load else ""
        if load != self._load_shown:
            self._load_shown = load
            self.query_one("#load", Static).update(load)
        # has its line before there is a figure for it: what stands below it does not jump later
        owner = view.shot.owner if view.shot else None
        self.query_one("#load").display = owner is not None and pid_is_local(owner)
        self._draw()
        self._log(view)
        running = view.shot is not None and view.shot.running
        if running:
            self._job = 0  # from now on its files say how it is
            self.ubq.name_terminal(f"▶ {printable(self.folder.name)}")
        # Until the job that was started holds the run, the files tell of an earlier one.
        coming = self._starting or (self._job and start_token(self._job) is not None)
        if self._was_running and not running and not coming and view.shot is not None:
            self._was_running = False
            self._ended(view.shot)
        elif running:
            self._was_running = True

    def _draw(self) -> None:
        stage, plot = self.query_one(Stages).stage, self.query_one(Curves)
        plot.stage = stage.name if stage else ""
        plot.draw()

    def _head(self, shot: Snapshot) -> Text:
        state = shot.state
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{state.run} ", style="bold")
        text.append(_("starting") if self._starting else state_word(shot.shown), style="bold")
        parts = [_("preset {preset}").format(preset=state.preset)] if state.preset and state.preset != state.run else []
        current = next((s for s in state.stages if s.state == RUNNING), None)
        if shot.owner and current:
            parts += [phase_word(current.phase, current.name)] if current.phase not in ("", "train") else []
            if current.rate:
                parts.append(_("{rate:.3g} steps/s").format(rate=current.rate))
            if current.last_checkpoint is not None:
                parts.append(_("checkpoint {step}").format(step=current.last_checkpoint))
        if shot.owner:
            parts.append(_("process {pid} on {host}").format(pid=shot.owner.pid, host=shot.owner.host))
        elif shot.shown == CRASHED:
            parts.append(_("its process is gone; r goes on from the last checkpoint"))
        text.append("  " + " · ".join(parts))
        return text

    def _log(self, view: RunView) -> None:
        log = self.query_one("#log", RichLog)
        if view.log_restarted:
            self._fill_log()
            return
        for line in view.log:
            if self._pattern.casefold() in line.casefold():
                log.write(_log_line(line))

    def _fill_log(self) -> None:
        log = self.query_one("#log", RichLog)
        log.clear()
        for line in list(self._reader.log.lines):
            if self._pattern.casefold() in line.casefold():
                log.write(_log_line(line))

    def _ended(self, shot: Snapshot) -> None:
        """The run has ended before our eyes; what was wrong stands on the screen."""
        self.ubq.run_ended(printable(shot.state.run), SIGNS.get(shot.shown, "?"))
        if shot.shown == COMPLETED and self.is_current:
            self.action_checklist()

    @on(Stages.Chosen)
    def _redraw(self) -> None:
        self._draw()

    def action_checklist(self) -> None:
        from ubq.tui.checklist import ChecklistScreen

        self.app.push_screen(ChecklistScreen(self.folder))

    def action_other(self) -> None:
        box = self.query_one("#filter", Input)
        if box.display and box.has_focus:
            self._close_filter()
            return
        self.dismiss()

    def action_log(self) -> None:
        from ubq.tui.logscreen import LogScreen

        self.app.push_screen(LogScreen(self.folder))

    def action_zoom(self, closer: bool) -> None:
        self.query_one(Curves).zoom(closer)

    def action_axis(self) -> None:
        self.query_one(Curves).turn_axis()

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self._fill_log)  # its lines are wrapped to the width they were written at

    # The log's filter

    def action_filter(self) -> None:
        self.query_one("#filter", LineBox).open()

    @on(Input.Changed, "#filter")
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        self._pattern = event.value
        self._fill_log()

    @on(Input.Submitted, "#filter")
    def _filtered(self, event: Input.Submitted) -> None:
        event.stop()
        self._close_filter()

    def _close_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = bool(box.value)
        self.query_one(Stages).focus()

    # Stop and resume

    def action_stop(self) -> None:
        shot = self.query_one(Stages).shot
        if shot is None or not shot.running:
            self.notify(_("it is not running"), timeout=3)
            return
        question = _("Stop {run}? It finishes its step, saves, and can be resumed.").format(
            run=printable(self.folder.name)
        )
        answers = (("stop", _("stop")), ("now", _("stop without saving")), ("keep", _("keep it running")))
        self.app.push_screen(Ask(question, answers), self._stop)

    def _stop(self, answer: str | None) -> None:
        if answer in ("stop", "now"):
            self._was_running = False  # it is we who end it
            self._stop_in_thread(answer == "now")

    @work(thread=True, group="stop")
    def _stop_in_thread(self, now: bool) -> None:
        def tell(message: str) -> None:
            self.app.call_from_thread(self.notify, message, timeout=4, markup=False)

        try:
            stop_run(self.folder, now, tell=tell)
            tell(_("stopped; r goes on"))
        except UbqError as error:
            self.app.call_from_thread(self.ubq.tell, error.message, error.fix)

    def action_resume(self) -> None:
        shot = self.query_one(Stages).shot
        if shot is None or shot.running:
            self.notify(_("it is running already") if shot else _("there is no run to resume"), timeout=3)
        elif shot.shown == COMPLETED:
            self.notify(_("it is complete; c shows its checklist"), timeout=3)
        else:
            self._start(["resume", str(self.folder.absolute())])

    @work(exclusive=True, group="start")
    async def _start(self, arguments: list[str]) -> None:
        """Start the job in a session of its own."""
        self._starting = True
        self.ubq.recent = self.folder
        try:
            job: Detached = await asyncio.to_thread(start_detached, arguments, self.folder)
        except (UbqError, OSError) as error:
            self.ubq.tell(str(error))
            return
        finally:
            self._starting = False
        self._was_running, self._job = True, job.pid
        if job.exit_code:
            lines = [line for line in job.output.splitlines() if line.strip()]
            at = next((i for i, line in enumerate(lines) if "error:" in line), max(0, len(lines) - 3))
            self._was_running = False
            self.ubq.tell(
                "\n".join(lines[at : at + 3]) or _("it ended with exit code {code}").format(code=job.exit_code)
            )


def _log_line(line: str) -> Text:
    """A line of the log, its date left out: the time of day is enough beside the job."""
    date, _t, rest = line.partition("T")
    short = rest if len(date) == 10 and rest[2:3] == ":" else line
    return Text(short.replace("Z ", " ", 1) if short is not line else line)


def _error_text(shot: Snapshot) -> str:
    """What failed, and what helps, of a run that stands still."""
    error = shot.state.error
    if not error or shot.running:
        return ""
    stage, fix = error.get("stage"), error.get("fix", "")
    text = (f"{stage}: " if stage else "") + str(error.get("message", ""))
    return f"{text}\n  {fix}" if fix else text
