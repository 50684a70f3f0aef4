"""The loss curves of a stage: drawn, zoomed, on a linear or a logarithmic axis."""

from __future__ import annotations

from rich.text import Text
from textual.widget import Widget

from ubq.i18n import gettext as _
from ubq.tui.plot import Points, curves
from ubq.tui.runfiles import Curve
from ubq.tui.runview import RunReader

DEEPEST = 64
"""Part of the steps that the closest view shows, one in so many."""


class Curves(Widget):
    """Loss curves of one stage."""

    def __init__(self, reader: RunReader) -> None:
        super().__init__(id="plot")
        self._reader = reader
        self._drawn = ""
        self._zoom = 1
        self._logarithmic: bool | None = None
        self.stage = ""

    def zoom(self, closer: bool) -> None:
        """Show the last half of the steps that are shown, or twice as many."""
        self._zoom = min(self._zoom * 2, DEEPEST) if closer else max(self._zoom // 2, 1)
        self.draw()

    def turn_axis(self) -> None:
        """By itself (logarithmic where losses span more than a factor of ten), logarithmic, linear."""
        after = {None: True, True: False, False: None}
        self._logarithmic = after[self._logarithmic]
        self.draw()

    def draw(self) -> None:
        """Draw anew if that changes anything: every refresh travels over the terminal's line."""
        if self._text() != self._drawn:
            self.refresh()

    def render(self) -> Text:
        self._drawn = self._text()
        return Text(self._drawn, no_wrap=True, overflow="crop")

    def _text(self) -> str:
        metrics = self._reader.metrics
        train, validation = _points(metrics.train.get(self.stage)), _points(metrics.validation.get(self.stage))
        steps = [step for step, _loss in (*train, *validation)]
        begin = max(steps) - (max(steps) - min(steps)) / self._zoom if steps else 0.0
        shown = [[p for p in points if p[0] >= begin] for points in (train, validation)]
        drawn = curves(shown[0], shown[1], self.size.width, self.size.height - 1, self._logarithmic)
        if not drawn:
            return _("{stage}: no losses yet").format(stage=self.stage) if self.stage else ""
        parts = [_("{stage}: ⠒ training  ○ validation").format(stage=self.stage)]
        if self._logarithmic is not None:
            positive = all(loss > 0 for points in shown for _step, loss in points)
            parts.append(_("logarithmic") if self._logarithmic and positive else _("linear"))
        if self._zoom > 1:
            parts.append(_("last 1/{part}").format(part=self._zoom))
        return "\n".join([" · ".join(parts), *drawn])


def _points(curve: Curve | None) -> Points:
    """A copy: the reader's thread may add to them."""
    return list(curve.points) if curve else []
