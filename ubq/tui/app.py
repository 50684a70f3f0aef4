"""The text user interface: a viewer and a starter of jobs, never their process. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from ubq.config.runs import run_command
from ubq.i18n import gettext as _
from ubq.interface import Interface
from ubq.plaintext import printable
from ubq.tui.dialogs import Help, help_of

THEMES = {"dark": "textual-dark", "light": "textual-light", "terminal": "ansi-dark"}
"""Name in ``interface.toml`` -> Textual's theme; ``terminal`` uses the terminal's own colours."""


class UbqApp(App[int]):
    """The whole interface.

    Args:
        runs_dir: folder that holds the runs.
        file: configuration file that the wizard writes.
        interface: the user's settings.
        run: folder of a run to open at once.
        preset: preset to open the wizard with at once.
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
    ]

    def __init__(
        self, runs_dir: Path, file: Path, interface: Interface | None = None, run: Path | None = None, preset: str = ""
    ) -> None:
        super().__init__()
        self.runs_dir = runs_dir
        self.file = file
        self._interface = interface or Interface()
        self._first_run = run
        self._first_preset = preset
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
        for name in ("wizard", "progress", "checklist"):
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
        from ubq.tui.progress import ProgressScreen

        runs = [s.folder for s in self.screen_stack if isinstance(s, ProgressScreen) and s.running]
        message = _("{run} goes on; follow it with: {wizard}, or: {attach}")
        commands = {verb: run_command(verb, runs[-1]) for verb in ("wizard", "attach")} if runs else {}
        self.exit(0, message=message.format(run=printable(runs[-1].name), **commands) if runs else None)

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
        """Colours by their name in ``interface.toml``."""
        self.theme = THEMES[name]

    def copy(self, text: str) -> None:
        """Copy through the terminal (OSC 52), which reaches the user's own machine over SSH, and say so."""
        self.copy_to_clipboard(text)
        self.notify(_("copied: {text}").format(text=text.splitlines()[0] if text else ""), timeout=3, markup=False)

    def tell(self, message: str, fix: str = "") -> None:
        """Show what went wrong and what fixes it."""
        self.notify(printable(f"{message}\n{fix}").strip(), severity="error", timeout=12, markup=False)

    def open_run(self, folder: Path) -> None:
        """Show a run: its progress, or its checklist where it is complete."""
        from ubq.tui.progress import ProgressScreen

        self.push_screen(ProgressScreen(folder))

    def open_wizard(self, preset: str) -> None:
        """Open the wizard on the configuration file, with a preset underneath (empty: what the file says)."""
        from ubq.errors import UbqError
        from ubq.tui.draft import Draft
        from ubq.tui.wizard import WizardScreen

        try:
            draft = Draft(self.file, preset)
        except UbqError as error:
            self.tell(error.message, error.fix or _("fix {file} first").format(file=self.file))
            return
        self.push_screen(WizardScreen(draft, self.runs_dir))
