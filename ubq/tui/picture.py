"""A picture on the terminal: in its own pixels where it can, else two in each character, upper and lower half block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.segment import ControlType, Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui.dialogs import Keys, Messages
from ubq.tui.graphics import sequence

if TYPE_CHECKING:
    from PIL.Image import Image

    from ubq.tui.app import UbqApp


def half_blocks(image: Image, width: int, height: int) -> Text:
    """A picture in at most ``width`` x ``height`` characters."""
    import numpy as np

    scale = min(width / image.width, 2 * height / image.height)
    size = max(1, round(image.width * scale)), max(2, 2 * round(image.height * scale / 2))
    pixels = np.asarray(image.resize(size))
    text = Text(no_wrap=True)
    for pair in zip(pixels[::2], pixels[1::2], strict=True):
        for column in zip(*pair, strict=True):
            upper, lower = (f"#{r:02x}{g:02x}{b:02x}" for r, g, b in column)
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


def read(file: Path) -> Image:
    """A picture's file, as RGB.

    Raises:
        OSError: it cannot be read, or is no picture.
    """
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:  # a damaged one
        raise OSError(str(error)) from error


class Picture(Widget):
    """A picture across the whole width; of a higher one the part from :attr:`top` on."""

    def __init__(self, file: Path) -> None:
        super().__init__(id="picture")
        self._file = file
        self._drawn: dict[tuple[Size, str, int], Text | str] = {}
        self.top = 0
        """First row of the picture's pixels that is shown."""
        self.page = 0
        """Rows that are shown."""
        self.rows = 0
        """Rows of the whole picture; 0 before it is drawn, and where it cannot be."""

    def render(self) -> Text:
        """Half blocks; nothing where the terminal draws the picture."""
        drawn = self._draw()
        return drawn if isinstance(drawn, Text) else Text()

    def render_lines(self, crop: Region) -> list[Strip]:
        """The terminal's own picture goes out with the last line, after all that it lies on."""
        lines = super().render_lines(crop)
        drawn = self._draw()
        if isinstance(drawn, str) and lines:
            x, y = self.region.offset
            control = f"\x1b7\x1b[{y + 1};{x + 1}H{drawn}\x1b8"
            lines[-1] = Strip([*lines[-1], Segment(control, None, ((ControlType.CURSOR_FORWARD, 0),))], crop.width)
        return lines

    def turn(self, pages: float) -> None:
        """Show what stands further down, or up."""
        self.top = max(0, min(self.top + int(pages * self.page), self.rows - self.page))
        self.refresh()

    def _draw(self) -> Text | str:
        """Half blocks, or a control sequence: not under a dialog, which the picture would lie on."""
        graphics = cast("UbqApp", self.app).graphics
        own = graphics.protocol if self.screen.is_active else ""
        key = (self.size, own, self.top)
        if key not in self._drawn:  # what is around it changes more often
            try:
                image = read(self._file)
                dots = graphics.cell if own and all(graphics.cell) else (1, 2)
                across, down = self.size.width * dots[0], self.size.height * dots[1]
                self.rows, self.page = image.height, min(image.height, max(1, down * image.width // across))
                self.top = max(0, min(self.top, self.rows - self.page))
                part = image.crop((0, self.top, image.width, self.top + self.page))
                drawn = sequence(part, graphics, *self.size) if own else half_blocks(part, *self.size)
            except (OSError, ImportError) as error:
                self.rows = self.page = 0
                message = _("{file} cannot be shown: {error}").format(file=self._file, error=error)
                drawn = Text(f"! {printable(message)}")
            self._drawn = {key: drawn}
            self.call_after_refresh(self.screen.refresh_bindings)
        return self._drawn[key]


class PictureScreen(Screen[None]):
    """One picture of a run."""

    help_text = _(
        "The picture, in half blocks where the terminal draws none of its own (sixel, kitty); the file itself is "
        "sharp, and y copies its path."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j,pagedown,space", "turn(0.5)", _("down"), id="picture.down", key_display="↓"),
        Binding("up,k,pageup", "turn(-0.5)", _("up"), id="picture.up", key_display="↑"),
        Binding("escape,o,q", "close", _("back"), id="picture.close", key_display="esc"),
        Binding("y", "copy", _("copy"), id="picture.copy"),
    ]

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    @property
    def ubq(self) -> UbqApp:
        return cast("UbqApp", self.app)

    def compose(self) -> ComposeResult:
        yield Static(printable(str(self._file)), classes="title", markup=False)
        yield Picture(self._file)
        yield Messages()
        yield Keys()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key is shown where it cannot act."""
        if action != "turn" or not self.query(Picture):
            return True
        picture, (pages,) = self.query_one(Picture), parameters
        return picture.top > 0 if pages == -0.5 else picture.top + picture.page < picture.rows

    def on_screen_suspend(self) -> None:
        self.ubq.take_away_picture()

    def on_screen_resume(self) -> None:
        self.query_one(Picture).refresh()

    def on_unmount(self) -> None:
        self.ubq.take_away_picture()

    def action_turn(self, pages: float) -> None:
        self.query_one(Picture).turn(pages)

    def action_close(self) -> None:
        self.dismiss()

    def action_copy(self) -> None:
        self.ubq.copy(str(self._file.absolute()))
