"""The log of a run on the whole screen: wrapped or not, searched, copied."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input, Static, TextArea

from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.stages.paths import RunPaths
from ubq.tui.dialogs import Keys, LineBox, Messages
from ubq.tui.runfiles import MAX_LINES, Log

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp

POLL_S = 0.5


class LogText(TextArea):
    """The lines, moved in with vi's keys too; Shift and an arrow mark a part."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False, id="log.down"),
        Binding("k", "cursor_up", show=False, id="log.up"),
        Binding("h", "cursor_left", show=False, id="log.left"),
        Binding("l", "cursor_right", show=False, id="log.right"),
        Binding("g", "end(False)", show=False, id="log.first"),
        Binding("G", "end(True)", show=False, id="log.last"),
    ]

    def action_end(self, last: bool) -> None:
        """To the last line, which then is followed, or to the first."""
        self.move_cursor((self.document.line_count - 1 if last else 0, 0))

    @property
    def follows(self) -> bool:
        """Whether the cursor is on the last line: new ones are followed."""
        return self.cursor_location[0] >= self.document.line_count - 1


class LogScreen(Screen[None]):
    """The log of one run, as it grows.

    Args:
        folder: of the run.
    """

    help_text = _(
        "The run's log. w wraps long lines or scrolls them sideways; / finds a word, n and N the next and the one "
        "before; Shift and an arrow mark a part, y copies it, or the line where nothing is marked. On the last line, "
        "new lines are followed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", _("find"), id="log.find", key_display="/"),
        Binding("n", "next(1)", _("next"), id="log.next"),
        Binding("N", "next(-1)", _("one before"), id="log.previous", show=False),
        Binding("w", "wrap", _("wrap"), id="log.wrap"),
        Binding("y", "copy", _("copy"), id="log.copy"),
        Binding("escape,o,q", "close", _("back"), id="log.close", key_display="esc"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._source = Log(RunPaths(folder).log)
        self._wanted = ""

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

    def compose(self) -> ComposeResult:
        title = _("{run}: log").format(run=printable(self.folder.name))
        yield Static(title, classes="title", markup=False)
        yield LogText(read_only=True, soft_wrap=True, compact=True, show_cursor=True, id="text")
        yield LineBox(_("find …"), "find")
        yield Messages()
        yield Keys()

    def on_mount(self) -> None:
        text = self.query_one(LogText)
        text.cursor_blink = False
        self._source.read()
        text.load_text("\n".join(self._source.lines))
        text.action_end(True)
        text.focus()
        self._follow()

    @work(exclusive=True)
    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            new = await asyncio.to_thread(self._source.read)
            if not self.query(LogText):
                return  # the screen is being closed
            if self._source.restarted:
                self.query_one(LogText).load_text("\n".join(self._source.lines))
            elif new:
                self._append(new)

    def _append(self, new: list[str]) -> None:
        text = self.query_one(LogText)
        follows = text.follows
        if text.document.line_count > 2 * MAX_LINES:  # the source keeps no more of them
            text.load_text("\n".join(self._source.lines))
        else:
            begun = "\n" if text.text else ""
            text.insert(begun + "\n".join(new), text.document.end, maintain_selection_offset=not follows)
        if follows:
            text.action_end(True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key is shown where it cannot act."""
        return action != "next" or bool(self._wanted)

    def action_find(self) -> None:
        self.query_one("#find", LineBox).open()

    @on(Input.Submitted, "#find")
    def _found(self, event: Input.Submitted) -> None:
        event.stop()
        event.input.display = False
        self._wanted = event.value
        self.query_one(LogText).focus()
        self.refresh_bindings()
        self.action_next(1)

    def action_next(self, by: int) -> None:
        """Mark the next place that holds the word, or the one before; from the end it goes on at the beginning."""
        text = self.query_one(LogText)
        word, lines = self._wanted.casefold(), text.text.split("\n")
        row = text.cursor_location[0]
        for i in range(1, len(lines) + 1):
            at = (row + by * i) % len(lines)
            column = lines[at].casefold().find(word) if word else -1
            if column >= 0:
                text.move_cursor((at, column))
                text.move_cursor((at, column + len(word)), select=True)
                return
        if word:
            self.notify(_("nothing holds {text}").format(text=self._wanted), timeout=4, markup=False)

    def action_wrap(self) -> None:
        text = self.query_one(LogText)
        text.soft_wrap = not text.soft_wrap

    def action_copy(self) -> None:
        text = self.query_one(LogText)
        row = text.cursor_location[0]
        self.ubq.copy(text.selected_text or text.document.get_line(row))

    def action_close(self) -> None:
        box = self.query_one("#find", Input)
        if box.has_focus:
            box.display = False
            self.query_one(LogText).focus()
        else:
            self.dismiss()
