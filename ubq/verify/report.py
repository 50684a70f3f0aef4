"""``report.json``: the success marks of an exported model, and the checklist that people read.

Light: imports neither torch nor numpy, so that status, the command line and the text UI can show a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ubq.durable import dump_json, parse_json, plain, write_atomic
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.i18n import restored, storable

if TYPE_CHECKING:
    from rich.console import Console

FORMAT_VERSION = 1
REPORT, EVIDENCE, PAGE = "report.json", "report.npz", "report.html"
"""Names in ``exported_models``: the marks, what the page's pictures are drawn from, the page."""
MARK_IDS = (
    "quantised_modules",
    "conv1d_left",
    "loss_falling",
    "file_size",
    "generation",
    "int8_fidelity",
    "diversity",
    "beats_noise",
    "physics",
    "lattice",
    "variogram",
)
Figure = float | int | None | Mapping[str, float | int | None]
"""One number, or several by name; None where nothing could be measured."""


@dataclass(frozen=True)
class Mark:
    """One success mark: what was measured and what it had to reach."""

    id: str
    passed: bool
    value: Figure
    threshold: Figure
    how: str
    """How it was measured, in one line; for a failed mark also what went wrong."""


@dataclass(frozen=True)
class Report:
    """All marks of one run's export, and the figures behind them."""

    run: str
    marks: tuple[Mark, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Every success mark is there and passed."""
        return {m.id for m in self.marks} >= set(MARK_IDS) and all(m.passed for m in self.marks)

    def to_json(self) -> dict[str, Any]:
        """JSON object; figures that are not finite become null."""
        marks = [
            {"id": m.id, "passed": m.passed, "value": m.value, "threshold": m.threshold, "how": m.how}
            for m in self.marks
        ]
        document = {"format_version": FORMAT_VERSION, "run": self.run, "passed": self.passed, "marks": marks}
        return cast("dict[str, Any]", plain(storable({**document, "details": self.details})))

    def write(self, path: Path) -> None:
        """Write ``report.json`` whole or not at all."""
        write_atomic(path, dump_json(self.to_json(), indent=2))

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read ``report.json``.

        Raises:
            UsageError: no such file, or not a report of this version.
        """
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            if content["format_version"] > FORMAT_VERSION:
                raise UsageError(
                    _("{path} is of a newer version of ubq").format(path=path), _("pip install --upgrade ubq")
                )
            keys = ("id", "passed", "value", "threshold", "how")
            marks = tuple(Mark(**{k: m[k] for k in keys}) for m in restored(content["marks"]))
            for mark in marks:  # whoever shows them need not doubt them
                figure_rows(mark), value_text(mark), threshold_text(mark), title(mark.id)
            return cls(content["run"], marks, content.get("details", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                _("{path} is not a report: {error}").format(path=path, error=error), _("ubq resume")
            ) from error


def title(mark_id: str) -> str:
    """What a mark says, for people."""
    titles = {
        "quantised_modules": _("modules quantised"),
        "conv1d_left": _("Conv1d layers left"),
        "loss_falling": _("training losses behave"),
        "file_size": _("file size"),
        "generation": _("generates pairs without ubq"),
        "int8_fidelity": _("int8 agrees with float"),
        "diversity": _("generated maps differ"),
        "beats_noise": _("better than decoded noise"),
        "physics": _("pairs obey the wave equation"),
        "lattice": _("no lattice in the maps"),
        "variogram": _("variogram of real maps"),
    }
    return titles.get(mark_id, mark_id)


def meaning(mark_id: str) -> str:
    """What a mark's figure is, in one line."""
    meanings = {
        "quantised_modules": _("share of the generator's leaf modules that are int8, read off the file's own graph"),
        "conv1d_left": _("one-dimensional convolutions in the file's graph; integer engines have none"),
        "loss_falling": _("training stages whose losses behave as they should"),
        "file_size": _("of the TorchScript file"),
        "generation": _("checks of the file in a fresh process that has no ubq"),
        "int8_fidelity": _(
            "relative L2 of the int8 file to the float model: decoders, and one U-Net step, or all of a distilled one"
        ),
        "diversity": _("mean distance between two generated maps, over that between two held-out maps"),
        "beats_noise": _("distance of generated maps to held-out maps, over that of maps decoded from plain noise"),
        "physics": _("E of the pairs as written to disk: 0 obeys the wave equation, 1 knows the direct wave only"),
    }
    return meanings.get(mark_id, "")


@dataclass(frozen=True)
class FigureRow:
    """One of a mark's figures with its bound, for people.

    Attributes:
        name: of the figure, where a mark has several.
        ratio: the figure over its bound; None where that says nothing.
    """

    name: str
    value: str
    bound: str
    ratio: float | None


def figure_rows(mark: Mark) -> list[FigureRow]:
    """Every figure of a mark."""
    values = mark.value if isinstance(mark.value, Mapping) else {"": mark.value}
    rows = []
    for name, value in values.items():
        bound = mark.threshold.get(name) if isinstance(mark.threshold, Mapping) else mark.threshold
        ratio = value / bound if value is not None and bound and value >= 0 and _sign(mark.id) != "= " else None
        shown = _sign(mark.id) + _number_text(mark.id, bound)
        rows.append(FigureRow(name, _number_text(mark.id, value), shown, ratio))
    return rows


def value_text(mark: Mark) -> str:
    """The measured figure for people: ``38.9 %``, ``velocity 1.2 %, seismic 3.4 %``."""
    return _figure_text(mark.id, mark.value)


def threshold_text(mark: Mark) -> str:
    """The figure to reach for people: ``> 30 %``, ``<= 0.5``."""
    return _sign(mark.id) + _figure_text(mark.id, mark.threshold)


def _sign(mark_id: str) -> str:
    sign = {"quantised_modules": "> ", "file_size": "< ", "diversity": ">= ", "conv1d_left": "= ", "generation": "= "}
    sign |= dict.fromkeys(("int8_fidelity", "beats_noise", "physics", "lattice", "variogram"), "<= ")
    return sign.get(mark_id, "")


def print_checklist(report: Report, console: Console | None = None) -> None:
    """Print the success checklist: a table on a terminal, one plain line for each mark elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(stderr=True)
    word = {True: _("passed"), False: _("FAILED")}
    if not console.is_terminal:
        for mark in report.marks:
            line = f"{word[mark.passed]}\t{mark.id}\t{value_text(mark)}\t{threshold_text(mark)}\t{mark.how}"
            print(line, file=console.file)  # rich would turn tabs into blanks and wrap
        return
    table = Table(title=_("Success marks of {run}").format(run=report.run), title_justify="left")
    for heading in (_("mark"), "", _("figure"), _("wanted")):
        table.add_column(heading, overflow="fold")
    for mark in report.marks:
        style = "green" if mark.passed else "bold red"
        table.add_row(title(mark.id), Text(word[mark.passed], style=style), value_text(mark), threshold_text(mark))
    console.print(table)
    for mark in report.marks:
        if not mark.passed:
            console.print(Text(f"{title(mark.id)}: {mark.how}", style="red"))


def _figure_text(mark_id: str, figure: Figure) -> str:
    if isinstance(figure, Mapping):
        return ", ".join(f"{name} {_number_text(mark_id, value)}" for name, value in figure.items())
    return _number_text(mark_id, figure)


def _number_text(mark_id: str, number: float | int | None) -> str:
    if number is None:
        return _("not measured")
    if mark_id in ("quantised_modules", "int8_fidelity"):
        return f"{100 * number:.3g} %"
    if mark_id == "file_size":
        return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"
    return f"{number:.3g}"
