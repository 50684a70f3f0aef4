"""The text user interface: a viewer and a starter of jobs, never their process. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette, Hit, Hits
from textual.notifications import SeverityLevel
from textual.reactive import reactive
from textual.screen import Screen
from textual.system_commands import SystemCommandsProvider
from textual.timer import Timer

from ubq.config.keys import toml_value
from ubq.config.runs import run_command
from ubq.i18n import gettext as _
from ubq.interface import Interface
from ubq.plaintext import printable
from ubq.tui.dialogs import Ask, Help, Leaving, help_of
from ubq.tui.graphics import Graphics, kitty_gone

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ubq.tui.draft import Draft

MOST_SHOWN = 8
"""Lines of a list in a question."""

THEMES = {"dark": "textual-dark", "light": "textual-light", "terminal": "ansi-dark"}
"""Name in ``interface.toml`` -> Textual's theme; ``terminal`` uses the terminal's own colours."""


class Commands(SystemCommandsProvider):
    """What the menu finds; where nothing is found, Textual would say so in English alone."""

    async def search(self, query: str) -> Hits:
        found = False
        async for hit in super().search(query):
            found = True
            yield hit
        if not found:
            yield Hit(1.0, _("nothing found"), lambda: None)


class UbqApp(App[int]):
    """The whole interface.

    Args:
        runs_dir: folder that holds the runs.
        file: configuration file that the wizard writes.
        interface: the user's settings.
        run: folder of a run to open at once.
        preset: preset to open the wizard with at once.
        graphics: how the terminal draws pictures.
    """

    TITLE = "ubq"
    CSS_PATH = "ubq.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (78, "-normal"), (110, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-middle"), (36, "-high")]  # noqa: RUF012
    # Ctrl+P belongs to docker's detach sequence and to some editors' terminals.
    COMMAND_PALETTE_BINDING = "f2"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "help", _("help"), id="app.help", key_display="?"),
        Binding("ctrl+q", "quit", _("leave"), priority=True, id="app.leave"),
        Binding("f2", "command_palette", _("menu"), id="app.commands"),
        Binding("f4", "toggle_bell", _("bell on or off"), id="app.bell", show=False),
    ]

    notice: reactive[str] = reactive("")
    """What :class:`Messages` shows."""

    def __init__(
        self,
        runs_dir: Path,
        file: Path,
        interface: Interface | None = None,
        run: Path | None = None,
        preset: str = "",
        graphics: Graphics | None = None,
    ) -> None:
        super().__init__()
        self.runs_dir = runs_dir
        self.file = file
        self._interface = interface or Interface()
        self._first_run = run
        self._first_preset = preset
        self.graphics = graphics or Graphics()
        self.recent: Path | None = None
        """The run started last, which the list of runs goes to."""
        self.bell_on = self._interface.bell != "off"
        self._quiet: Timer | None = None
        self._terminal_name = ""
        self.animation_level = "none"  # every frame of an animation is a packet over SSH

    def on_mount(self) -> None:
        self.theme = THEMES.get(self._interface.theme, "textual-dark")
        self.set_keymap(dict(self._interface.keys))
        self._watch_signals()
        from ubq.tui.start import StartScreen

        self.push_screen(StartScreen())
        self.call_after_refresh(self._import_the_rest)
        if self._interface.problem:
            self.notify(self._interface.problem, severity="warning", markup=False)
        if self._first_run is not None:
            self.open_run(self._first_run)
        elif self._first_preset:
            self.open_wizard(self._first_preset)

    @work(thread=True)
    def _import_the_rest(self) -> None:
        """Behind the first frame: screens open at once, and an upgrade of ubq meanwhile does not mix two versions."""
        for name in ("wizard", "progress", "checklist", "compare", "logscreen", "picture"):
            importlib.import_module(f"ubq.tui.{name}")

    def _watch_signals(self) -> None:
        """Close cleanly when the terminal or the machine goes; the exit code says which signal it was."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            # The terminal is gone: what is still written to it must not fail.
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(nowhere, stream)
        self.exit(128 + number)

    async def action_quit(self) -> None:
        """Leave; where answers would be lost, ask first. Asked again while it asks, it leaves."""
        from ubq.tui.runlist import running_in
        from ubq.tui.wizard import WizardScreen

        asking = isinstance(self.screen, Leaving)
        running = running_in(self.runs_dir, [getattr(screen, "folder", None) for screen in self.screen_stack])
        lost = any(isinstance(screen, WizardScreen) and screen.unsaved for screen in self.screen_stack)
        names = ", ".join(printable(folder.name) for folder in running)
        goes_on = _("{runs} goes on without this program.").format(runs=names) if running else ""
        if lost and not asking:
            question = "\n".join(t for t in (_("Leave ubq? The answers are not saved yet."), goes_on) if t)
            answers = (("stay", _("stay")), ("leave", _("leave without saving")))
            self.push_screen(Leaving(question, answers), lambda answer: self._leave(running, answer))
        else:
            self._leave(running)

    def _leave(self, running: Sequence[Path], answer: str | None = "leave") -> None:
        if answer != "leave":
            return
        message = _("{run} goes on; follow it with: {wizard}, or: {attach}")
        lines = []
        for run in running:
            commands = {verb: run_command(verb, run) for verb in ("wizard", "attach")}
            lines.append(message.format(run=printable(run.name), **commands))
        self.exit(0, message="\n".join(lines) or None)

    def action_help_quit(self) -> None:
        self.notify(_("ctrl+q leaves; a job goes on"), timeout=3)

    def action_help(self) -> None:
        if isinstance(self.screen, Help):
            return
        about = help_of(self.focused) or help_of(self.screen) or _("No help for this.")
        keys = []
        for _node, binding, enabled, _tooltip in self.screen.active_bindings.values():
            if binding.id and binding.description and enabled:  # those without an id are Textual's own
                keys.append((self.get_key_display(binding), binding.description))
        self.push_screen(Help(about, list(dict.fromkeys(keys))))

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.id and binding.description and active.enabled and binding.action != "command_palette":
                key = self.get_key_display(binding)
                action, node = binding.action, active.node
                yield SystemCommand(
                    binding.description,
                    _("key: {key}").format(key=key),
                    lambda action=action, node=node: self.call_later(self.run_action, action, node),
                )
        for name, words in (
            ("dark", _("dark colours")),
            ("light", _("light colours")),
            ("terminal", _("the terminal's own colours")),
        ):
            yield SystemCommand(words, _("colours"), lambda name=name: self.use_theme(name))

    def use_theme(self, name: str) -> None:
        """Colours by their name in ``interface.toml``; the choice is kept there."""
        self.theme = THEMES[name]
        self.keep("theme", name)

    def keep(self, name: str, value: str) -> None:
        """Keep a setting in the user's ``interface.toml``."""
        from ubq.config.editing import edited, read_file, write_file
        from ubq.errors import UbqError
        from ubq.interface import user_folder

        folder = user_folder()
        if folder is None:
            return
        file = folder / "interface.toml"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text, style = read_file(file) if file.exists() else ("", None)
            write_file(file, edited(text, {name: value}), style)
        except (UbqError, OSError) as error:
            self.tell(_("{file} cannot be written: {error}").format(file=file, error=error))

    def action_command_palette(self) -> None:
        """Textual's, which asks in English alone."""
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(CommandPalette([Commands], placeholder=_("what to do …"), id="--command-palette"))

    def action_toggle_bell(self) -> None:
        """Turn the bell at a run's end on or off."""
        self.bell_on = not self.bell_on
        self.keep("bell", "on" if self.bell_on else "off")
        self.notify(_("a run that ends rings the bell") if self.bell_on else _("a run ends without a bell"), timeout=4)

    def run_ended(self, name: str, sign: str) -> None:
        """Tell of a run's end beyond the screen: the terminal's bell, unless it is off, and its title."""
        self.name_terminal(f"{sign} {name}")
        if self.bell_on:
            self.bell()

    def name_terminal(self, words: str) -> None:
        """Give the terminal's window a title (OSC 2), where the driver can write."""
        if words != self._terminal_name and self._driver is not None and not self.is_headless:
            before = "" if self._terminal_name else "\x1b[22;0t"  # the terminal keeps the title that it has
            self._terminal_name = words
            self._driver.write(f"{before}\x1b]2;{printable(words, keep='')} - ubq\x07")

    def take_away_picture(self) -> None:
        """Remove what kitty's protocol drew, which stays over any text."""
        if self.graphics.protocol == "kitty" and self._driver is not None and not self.is_headless:
            self._driver.write(kitty_gone())

    def exit(self, result: int | None = None, return_code: int = 0, message: RenderableType | None = None) -> None:
        if self._terminal_name and self._driver is not None:
            self._terminal_name = ""
            self._driver.write("\x1b[23;0t")  # and takes it back
        super().exit(result, return_code, message)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = True,
    ) -> None:
        """Say something in the line that screens keep for it (:class:`Messages`), for some seconds."""
        self.notice = f"{'' if severity == 'information' else '! '}{message}"
        if self._quiet is not None:
            self._quiet.stop()
        self._quiet = self.set_timer(5.0 if timeout is None else timeout, lambda: setattr(self, "notice", ""))

    def copy(self, text: str) -> None:
        """Copy through the terminal (OSC 52), which reaches the user's own machine over SSH, and say so."""
        self.copy_to_clipboard(text)
        self.notify(_("copied: {text}").format(text=text.splitlines()[0] if text else ""), timeout=3, markup=False)

    def tell(self, message: str, fix: str = "") -> None:
        """Show what went wrong and what fixes it."""
        self.notify(printable(f"{message}\n{fix}").strip(), severity="error", timeout=20, markup=False)

    def open_run(self, folder: Path) -> None:
        """Show a run: its progress, or its checklist where it is complete."""
        from ubq.tui.progress import ProgressScreen

        self.push_screen(ProgressScreen(folder))

    def open_wizard(self, preset: str) -> None:
        """Open the wizard on the configuration file, with a preset underneath (empty: what the file says).

        What the file says of earlier does not go silently under a preset: it is shown and asked for.
        """
        draft = self._draft(preset)
        if draft is None:
            return
        left = draft.left_over() if preset else {}
        if not left:
            self._show_wizard(draft)
            return
        lines = [f"  {name} = {toml_value(value)}" for name, value in left.items()]
        shown = "\n".join([*lines[:MOST_SHOWN], *(["  …"] if len(lines) > MOST_SHOWN else [])])
        question = _("{file} holds values of an earlier configuration:\n{values}\nPut them over {preset}?")
        answers = (
            ("alone", _("{preset} alone; the file is kept as {kept}").format(preset=preset, kept=draft.backup.name)),
            ("keep", _("keep these values")),
        )

        def chosen(answer: str | None) -> None:
            if answer == "keep":
                self._show_wizard(draft)
            elif answer == "alone":
                anew = self._draft(preset, anew=True)
                if anew is not None:
                    self._show_wizard(anew)

        question = question.format(file=self.file, values=printable(shown), preset=preset)
        self.push_screen(Ask(question, answers), chosen)

    def _draft(self, preset: str, anew: bool = False) -> Draft | None:
        from ubq.errors import UbqError
        from ubq.tui.draft import Draft

        try:
            return Draft(self.file, preset, anew=anew)
        except UbqError as error:
            self.tell(error.message, error.fix or _("fix {file} first").format(file=self.file))
            return None

    def _show_wizard(self, draft: Draft) -> None:
        from ubq.tui.wizard import WizardScreen

        self.push_screen(WizardScreen(draft, self.runs_dir))

    def open_again(self, folder: Path, copy: bool = False) -> None:
        """Open the wizard on the configuration of a run, to go on with it or, as a copy, to begin another."""
        from ubq.errors import UbqError
        from ubq.tui.draft import RunDraft

        try:
            draft = RunDraft(folder, copy)
        except UbqError as error:
            self.tell(error.message, error.fix)
            return
        self._show_wizard(draft)
