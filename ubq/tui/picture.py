"""A picture on the terminal, two of its pixels in each character: the upper and the lower half block."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui.dialogs import Keys, Messages


def half_blocks(file: Path, width: int, height: int) -> Text:
    """A picture in at most ``width`` x ``height`` characters.

    Raises:
        OSError: it cannot be read, or is no picture.
    """
    from PIL import Image

    with Image.open(file) as opened:
        scale = min(width / opened.width, 2 * height / opened.height)
        size = max(1, round(opened.width * scale)), max(2, 2 * round(opened.height * scale / 2))
        picture = opened.convert("RGB").resize(size)
    text = Text(no_wrap=True)
    for y in range(0, size[1], 2):
        for x in range(size[0]):
            upper, lower = (f"#{r:02x}{g:02x}{b:02x}" for r, g, b in _column(picture, x, y))
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


def _column(picture: object, x: int, y: int) -> list[tuple[int, int, int]]:
    return [picture.getpixel((x, y + i)) for i in range(2)]  # type: ignore[attr-defined]


class Picture(Widget):
    """A picture as large as there is room."""

    def __init__(self, file: Path) -> None:
        super().__init__(id="picture")
        self._file = file

    def render(self) -> Text:
        try:
            return half_blocks(self._file, self.size.width, self.size.height)
        except (OSError, ValueError, ImportError) as error:
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
        self.app.copy_to_clipboard(str(self._file.absolute()))
        self.notify(_("copied: {text}").format(text=self._file), timeout=3, markup=False)
