"""Form fields made from the schema's keys: one line each, changed with the keyboard alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.geometry import Size
from textual.message import Message
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Input, Static

from ubq.i18n import gettext as _
from ubq.tui.questions import PATHS, Question, shown

OTHER = object()
"""Chosen where the answer is none of the fixed words."""


class Choice(Widget, can_focus=True):
    """All options in one line: ``(•) qnnpack  ( ) x86``, or ``[x] torchscript  [ ] onnx`` where several may hold.

    Args:
        options: values and the words for them.
        chosen: values that hold.
        several: whether more than one may.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "move(1)", _("choose"), id="choice.next", key_display="←→"),
        Binding("left,h", "move(-1)", _("choose"), id="choice.previous", show=False),
        Binding("space", "choose", _("turn over"), id="choice.choose", show=False),
        Binding("j", "app.focus_next", show=False, id="choice.down"),
        Binding("k", "app.focus_previous", show=False, id="choice.up"),
    ]

    class Changed(Message):
        """Another option holds."""

        def __init__(self, choice: Choice) -> None:
            super().__init__()
            self.choice = choice

        @property
        def control(self) -> Choice:
            return self.choice

    def __init__(self, options: Sequence[tuple[object, str]], chosen: Sequence[object], several: bool = False) -> None:
        super().__init__()
        self.options = list(options)
        self.several = several
        self.chosen = list(chosen)
        self._at = next((i for i, (value, _word) in enumerate(self.options) if value in self.chosen), 0)

    def take(self, chosen: Sequence[object]) -> None:
        """Show other values, without a message."""
        if list(chosen) != self.chosen:
            self.chosen = list(chosen)
            if not self.several:
                self._at = next((i for i, (value, _word) in enumerate(self.options) if value in self.chosen), 0)
            self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._rows(width))

    def render(self) -> Text:
        text = Text()
        for n, row in enumerate(self._rows(self.size.width)):
            text.append("\n" if n else "")
            for i in row:
                held = self.options[i][0] in self.chosen
                style = "reverse" if self.has_focus and i == self._at else ("bold" if held else "")
                text.append(self._words(i), style=style)
                text.append("  ")
        return text

    def _words(self, i: int) -> str:
        value, word = self.options[i]
        held = value in self.chosen
        return f"{('[x]' if held else '[ ]') if self.several else ('(•)' if held else '( )')} {word}"

    def _rows(self, width: int) -> list[list[int]]:
        """Options by line; a mark stays with its word."""
        rows: list[list[int]] = [[]]
        used = 0
        for i in range(len(self.options)):
            need = cell_len(self._words(i)) + 2
            if rows[-1] and used + need > width + 2:
                rows.append([])
                used = 0
            rows[-1].append(i)
            used += need
        return rows

    def action_move(self, by: int) -> None:
        self._at = min(max(self._at + by, 0), len(self.options) - 1)
        if self.several:
            self.refresh()
        else:
            self._choose([self.options[self._at][0]])

    def action_choose(self) -> None:
        value = self.options[self._at][0]
        if not self.several:
            self._choose([self.options[(self._at + 1) % len(self.options)][0]] if value in self.chosen else [value])
        elif value in self.chosen:
            self._choose([v for v in self.chosen if v != value])
        else:
            self._choose([v for v, _word in self.options if v in self.chosen or v == value])

    def _choose(self, chosen: list[object]) -> None:
        if chosen != self.chosen:
            self.take(chosen)
            self.post_message(self.Changed(self))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        rows = self._rows(self.size.width)
        if offset is None or offset.y >= len(rows):
            return
        end = 0
        for i in rows[offset.y]:
            end += cell_len(self._words(i)) + 2
            if offset.x < end:
                self._at = i
                if self.several:
                    self.action_choose()
                else:
                    self._choose([self.options[i][0]])
                return


class PathSuggester(Suggester):
    """Completes the path of a file or folder."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        import asyncio

        return await asyncio.to_thread(complete_path, value)


def complete_path(value: str) -> str | None:
    """The first path that begins with ``value``, folders with a slash behind; None where there is none."""
    if not value:
        return None
    folder, _slash, start = value.rpartition("/")
    try:
        parent = Path(os.path.expanduser((folder + _slash) or "."))
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in parent.iterdir())
    except (OSError, RuntimeError, ValueError):
        return None
    hidden = start.startswith(".")
    for name in names:
        if name.startswith(start) and name.rstrip("/") != start and (hidden or not name.startswith(".")):
            return folder + _slash + name
    return None


class Entry(Input):
    """A line of text, whose ``?`` asks for help: no key of the schema takes one."""

    def __init__(self, value: str, path: bool, example: str = "", number: bool = False) -> None:
        suggester = PathSuggester() if path else None
        # A number is typed anew; the rest is changed somewhere in its middle.
        super().__init__(value, placeholder=example, compact=True, select_on_focus=number, suggester=suggester)
        self.cursor_blink = False

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return character != "?" and super().check_consume_key(key, character)

    async def _on_key(self, event: events.Key) -> None:
        if event.character == "?":
            event.prevent_default()  # Input would take it for text


class Field(Vertical):
    """One question: its label, the control that fits its key, and what is wrong with the answer."""

    class Answered(Message):
        """The control holds another value; ``left`` when the person is done with it, ``on`` to the next by Enter."""

        def __init__(self, field: Field, left: bool, on: bool = False) -> None:
            super().__init__()
            self.field = field
            self.left = left
            self.on = on

    def __init__(self, question: Question, value: object) -> None:
        super().__init__()
        self.question = question
        self._problem = Static("", classes="problem", markup=False)
        self._problem.display = False
        self.control = self._make(value)
        self._other: Entry | None = None
        if question.other:
            self._other = Entry("", path=False, example=question.example)
            self._show_other(value)

    @property
    def name_of_key(self) -> str:
        return self.question.key.name

    @property
    def answer(self) -> object:
        """What the control holds: text, or a value of the schema."""
        if not isinstance(self.control, Choice):
            return self.control.value
        if self.control.several:
            return list(self.control.chosen)
        chosen = self.control.chosen[0]
        return self._other.value if chosen is OTHER and self._other is not None else chosen

    def _make(self, value: object) -> Choice | Entry:
        key, words = self.question.key, self.question.words
        if key.kind == "boolean":
            return Choice([(True, _("yes")), (False, _("no"))], [value])
        if key.kind == "array" and key.choices:
            return Choice([(c, c) for c in key.choices], _as_list(value), several=True)
        if words:
            other = [(OTHER, self.question.other)] if self.question.other else []
            return Choice([*((word, word) for word in words), *other], [value if value in words else OTHER])
        number = key.kind in ("integer", "float")
        return Entry(shown(value), key.name in PATHS, self.question.example, number)

    def compose(self) -> ComposeResult:
        with Horizontal(classes="answer"):
            with Vertical(classes="names"):
                yield Static(self.question.label, classes="label", markup=False)
                yield Static(self.name_of_key, classes="key", markup=False)
            with Vertical(classes="controls"):
                yield self.control
                if self._other is not None:
                    yield self._other
        yield self._problem

    def show(self, value: object) -> None:
        """Show a value that was decided elsewhere; one being typed is left alone."""
        if isinstance(self.control, Choice):
            several, words = self.control.several, self.question.words
            if self._other is not None and not self._other.has_focus:
                self._show_other(value)
                value = value if value in words else OTHER
            if self._other is None or not self._other.has_focus:
                self.control.take(_as_list(value) if several else [value])
        else:
            _put(self.control, value)

    def _show_other(self, value: object) -> None:
        assert self._other is not None
        self._other.display = value not in self.question.words
        if self._other.display:
            _put(self._other, value)

    def complain(self, problem: str) -> None:
        """Say what is wrong; nothing when empty."""
        self._problem.update(f"! {problem}" if problem else "")
        self._problem.display = bool(problem)
        self.set_class(bool(problem), "wrong")

    @on(Choice.Changed)
    def _chosen(self, event: Choice.Changed) -> None:
        event.stop()
        if self._other is not None:
            self._other.display = event.choice.chosen == [OTHER]
            if self._other.display:
                self._other.value = ""
                self._other.focus()
                return  # what it is comes next
        self.post_message(self.Answered(self, left=True))

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Answered(self, left=False))

    @on(Input.Blurred)
    def _left(self, event: Input.Blurred) -> None:
        event.stop()
        self.post_message(self.Answered(self, left=True))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Answered(self, left=True, on=True))


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _put(entry: Entry, value: object) -> None:
    """Show a value in a line, unless it is being typed into."""
    if not entry.has_focus and entry.value != shown(value):
        with entry.prevent(Input.Changed):
            entry.value = shown(value)
