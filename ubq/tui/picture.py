"""A picture on the terminal, two of its pixels in each character: the upper and the lower half block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui.dialogs import Keys, Messages

if TYPE_CHECKING:
    from ubq.tui.app import UbqApp


def half_blocks(file: Path, width: int, height: int) -> Text:
    """A picture in at most ``width`` x ``height`` characters.

    Raises:
        OSError: it cannot be read, or is no picture.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file) as opened:
            scale = min(width / opened.width, 2 * height / opened.height)
            size = max(1, round(opened.width * scale)), max(2, 2 * round(opened.height * scale / 2))
            pixels = np.asarray(opened.convert("RGB").resize(size))
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:  # a damaged one
        raise OSError(str(error)) from error
    text = Text(no_wrap=True)
    for pair in zip(pixels[::2], pixels[1::2], strict=True):
        for column in zip(*pair, strict=True):
            upper, lower = (f"#{r:02x}{g:02x}{b:02x}" for r, g, b in column)
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


class Picture(Widget):
    """A picture as large as there is room."""

    def __init__(self, file: Path) -> None:
        super().__init__(id="picture")
        self._file = file
        self._drawn: tuple[Size, Text] | None = None

    def render(self) -> Text:
        if self._drawn is None or self._drawn[0] != self.size:  # what is around it changes more often
            self._drawn = self.size, self._draw()
        return self._drawn[1]

    def _draw(self) -> Text:
        try:
            return half_blocks(self._file, self.size.width, self.size.height)
        except (OSError, ImportError) as error:
            message = _("{file} cannot be shown: {error}").format(file=self._file, error=error)
            return Text(f"! {printable(message)}")


class PictureScreen(Screen[None]):
    """One picture of a run."""

    help_text = _("The picture in the terminal's coarse dots; the file itself is sharp, and y copies its path.")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,o,q", "close", _("back"), id="picture.close", key_display="esc"),
        Binding("y", "copy", _("copy"), id="picture.copy"),
    ]

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def compose(self) -> ComposeResult:
        yield Static(printable(str(self._file)), classes="title", markup=False)
        yield Picture(self._file)
        yield Messages()
        yield Keys()

    def action_close(self) -> None:
        self.dismiss()

    def action_copy(self) -> None:
        cast("UbqApp", self.app).copy(str(self._file.absolute()))
