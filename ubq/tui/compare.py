"""Two runs beside each other: what differs in their configurations, and their success marks."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from ubq.config.keys import toml_value
from ubq.config.rendering import differing
from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.jobs.frozen import load_frozen
from ubq.plaintext import printable
from ubq.stages.paths import RunPaths
from ubq.tui.dialogs import Keys, Messages
from ubq.tui.words import SIGNS
from ubq.verify.report import REPORT, Report, threshold_text, title, value_text

OWN = ("run.name", "run.dir", "export.name")
"""Keys in which runs differ by being two."""


class CompareScreen(Screen[None]):
    """Two runs.

    Args:
        a, b: their folders.
    """

    help_text = _("Success marks of both runs, and below the keys in which their configurations differ.")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o,escape", "close", _("back"), id="compare.close", key_display="esc"),
        Binding("j", "scroll(1)", show=False, id="compare.down"),
        Binding("k", "scroll(-1)", show=False, id="compare.up"),
    ]

    def __init__(self, a: Path, b: Path) -> None:
        super().__init__()
        self.folders = (a, b)

    def compose(self) -> ComposeResult:
        names = [printable(folder.name) for folder in self.folders]
        yield Static(_("{a} beside {b}").format(a=names[0], b=names[1]), classes="title", markup=False)
        with VerticalScroll(id="compare"):
            yield Static(Group(*_marks(self.folders), Text(), *_configuration(self.folders)))
        yield Messages()
        yield Keys()

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_close(self) -> None:
        self.dismiss()

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)


def _table(heading: str, folders: tuple[Path, Path]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(heading, overflow="fold")
    for folder in folders:
        table.add_column(Text(printable(folder.name)), overflow="fold")
    return table


def _marks(folders: tuple[Path, Path]) -> list[Table | Text]:
    """Success marks side by side; a run without a report has none."""
    marks_of = []
    for folder in folders:
        try:
            report = Report.read(RunPaths(folder).exported / REPORT)
            marks_of.append({mark.id: mark for mark in report.marks})
        except UbqError:
            marks_of.append({})
    ids = list(dict.fromkeys([*marks_of[0], *marks_of[1]]))
    if not ids:
        return [Text(_("neither run has a report yet"))]
    table = _table(_("success marks"), folders)
    for mark_id in ids:
        cells = []
        for marks in marks_of:
            mark = marks.get(mark_id)
            if mark is None:
                cells.append(Text("-", "dim"))
            else:
                cells.append(Text(f"{SIGNS['ok' if mark.passed else 'failed']} {value_text(mark)}"))
        any_mark = next(m[mark_id] for m in marks_of if mark_id in m)
        table.add_row(Text(f"{printable(title(mark_id))} ({threshold_text(any_mark)})"), *cells)
    return [table]


def _configuration(folders: tuple[Path, Path]) -> list[Table | Text]:
    """Keys that differ, with both values."""
    try:
        a, b = (load_frozen(RunPaths(folder)) for folder in folders)
    except UbqError as error:
        return [Text(printable(f"! {error.message} {error.fix}".strip()))]
    changed = {name: values for name, values in differing(a, b).items() if name not in OWN}
    if not changed:
        return [Text(_("their configurations are the same"))]
    table = _table(_("configuration"), folders)
    for name, values in changed.items():
        table.add_row(name, *(Text(printable(toml_value(value))) for value in values))
    return [table]
