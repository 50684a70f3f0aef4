"""Small windows over a screen: a question with a few answers, and help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Footer, Input, OptionList, Static

from ubq.i18n import gettext as _


class Menu(OptionList):
    """A list whose Enter stands in the footer; vi's keys move in it too."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", _("open"), id="list.open"),
        Binding("j", "cursor_down", show=False, id="list.down"),
        Binding("k", "cursor_up", show=False, id="list.up"),
        Binding("g", "first", show=False, id="list.first"),
        Binding("G", "last", show=False, id="list.last"),
        Binding("ctrl+d", "page_down", show=False, id="list.pagedown"),
        Binding("ctrl+u", "page_up", show=False, id="list.pageup"),
    ]

    def action_page_down(self) -> None:
        if self.content_size:  # where the terminal is too small for a row, Textual's own ends with a KeyError
            super().action_page_down()

    def action_page_up(self) -> None:
        if self.content_size:
            super().action_page_up()


class LineBox(Input):
    """A line to filter or find by, out of sight until it is asked for."""

    def __init__(self, placeholder: str, id: str) -> None:
        super().__init__(placeholder=placeholder, id=id, compact=True)
        self.cursor_blink = False
        self.display = False

    def open(self) -> None:
        """Show it and go there."""
        self.display = True
        self.focus()


class Messages(Static):
    """What the app has to say, in a place of its own: it covers nothing that it speaks of."""

    def __init__(self) -> None:
        super().__init__("", id="messages", markup=False)

    def on_mount(self) -> None:
        self.watch(self.app, "notice", self._show)

    def _show(self, message: str) -> None:
        self.update(message)
        self.display = bool(message)


class Keys(Footer):
    """The footer; where it is narrow, without the key of the menu, which the help tells too."""

    NARROW = 70

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)

    def compose(self) -> ComposeResult:
        narrow = self.app.size.width < self.NARROW
        for key in super().compose():
            if not (narrow and getattr(key, "action", "").endswith("command_palette")):
                yield key


class Ask(ModalScreen[str]):
    """A question; returns the id of the answer, or an empty string when it is left.

    Args:
        question: several lines are fine.
        answers: id and words of each; the first one has the focus.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", _("close"), id="dialog.close"),
        Binding("left,up,h,k", "app.focus_previous", show=False, id="dialog.previous"),
        Binding("right,down,l,j", "app.focus_next", show=False, id="dialog.next"),
    ]

    def __init__(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._question = question
        self._answers = answers

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            with VerticalScroll(can_focus=False):
                yield Static(self._question, markup=False)
            with Vertical(classes="buttons"):
                for name, words in self._answers:
                    yield Button(words, id=name, compact=True)

    def on_mount(self) -> None:
        self.query(Button).first().focus()

    @on(Button.Pressed)
    def _answer(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss(event.button.id or "")

    def action_leave(self) -> None:
        self.dismiss("")


class AskLine(ModalScreen[str]):
    """A question that a line of text answers; an empty string when it is left."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", _("close"), id="dialog.close")]

    def __init__(self, question: str, value: str) -> None:
        super().__init__()
        self._question = question
        self._value = value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Input(self._value, compact=True)

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _answer(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        self.dismiss("")


class Leaving(Ask):
    """The question before leaving the program."""


class Help(ModalScreen[None]):
    """What the focused thing is, and the keys that count here."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,enter,q", "leave", _("close"), id="help.close")
    ]

    def __init__(self, about: str, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._about = about
        self._keys = keys

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Static(self._about, markup=False)
            table = Table.grid(padding=(0, 2))
            for key, does in self._keys:
                table.add_row(Text(key, style="bold"), does)
            yield Static("")
            yield Static(table)
        yield Keys()

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_leave(self) -> None:
        self.dismiss(None)


def help_of(widget: Widget | None) -> str:
    """Help of a widget: that of the nearest of it and what holds it that has any (``help_text``)."""
    node = widget
    while node is not None:
        text = getattr(node, "help_text", "")
        if text:
            return str(text)
        node = node.parent if isinstance(node.parent, Widget) else None
    return ""
