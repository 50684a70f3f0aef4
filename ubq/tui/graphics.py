"""Pictures in the terminal's own pixels: whether it can draw them, asked of it, and the two ways to send one.

Kitty's graphics protocol (https://sw.kovidgoyal.net/kitty/graphics-protocol) and sixels (VT340 manual, chapter 14).
"""

from __future__ import annotations

import base64
import io
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

ANSWERED_S = 0.6
"""Longest wait for the terminal's answer, counted from the question."""
KITTY_QUESTION = b"\x1b_Gi=1,a=q,s=1,v=1,t=d,f=24;AAAA\x1b\\"
QUESTIONS = b"\x1b[16t\x1b[c"
"""Size of a character in pixels, and what every terminal answers: what it is (primary device attributes)."""
COLORS = 64
CHUNK = 4096
"""Characters of a picture in one of kitty's sequences, which may not hold more."""


@dataclass(frozen=True)
class Graphics:
    """How the terminal draws pictures.

    Args:
        protocol: ``kitty``, ``sixel``, or empty: it does not.
        cell: width and height of a character in pixels.
    """

    protocol: str = ""
    cell: tuple[int, int] = (0, 0)


@contextmanager
def asked(wanted: bool = True) -> Iterator[Callable[[], Graphics]]:
    """Ask the terminal, and give what waits for its answer: meanwhile the program can load.

    It has to be over before Textual reads the terminal, for which an answer would be typed text.

    Args:
        wanted: without, nothing is asked; nor without a terminal, or of one that would print the question.
    """
    able = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "linux")
    if not (wanted and able):
        yield Graphics
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSANOW)  # the answer is neither echoed nor held back until Enter
    began = time.monotonic()
    try:
        os.write(sys.stdout.fileno(), QUESTIONS if _multiplexed() else KITTY_QUESTION + QUESTIONS)
        yield lambda: told(_answer(began + ANSWERED_S), _cell())
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _multiplexed() -> bool:
    """In tmux and screen kitty's question becomes the window's title, or goes past them to the terminal outside."""
    return os.environ.get("TERM", "").startswith(("tmux", "screen"))


def _answer(deadline: float) -> bytes:
    """What the terminal says until its last answer, or until the deadline."""
    answer = b""
    while not re.search(rb"\x1b\[\?[\d;]*c", answer):
        left = max(0.0, deadline - time.monotonic())
        if not select.select([sys.stdin], [], [], left)[0]:
            break
        read = os.read(sys.stdin.fileno(), 1024)
        if not read:
            break
        answer += read
    return answer


def _cell() -> tuple[int, int]:
    """Pixels of a character by the kernel's word, zeros where it knows none."""
    import termios
    from fcntl import ioctl
    from struct import unpack

    rows, columns, width, height = unpack("4H", ioctl(sys.stdout, termios.TIOCGWINSZ, bytes(8)))
    return (width // columns, height // rows) if rows and columns else (0, 0)


def told(answer: bytes, cell: tuple[int, int] = (0, 0)) -> Graphics:
    """What the terminal's answers mean; sixels only where the size of a character is known, else they run over."""
    size = re.search(rb"\x1b\[6;(\d+);(\d+)t", answer)
    if size:
        cell = int(size[2]), int(size[1])
    attributes = re.search(rb"\x1b\[\?([\d;]*)c", answer)
    if re.search(rb"\x1b_Gi=1[^\x1b]*;OK\x1b\\", answer):
        return Graphics("kitty", cell)
    if attributes and b"4" in attributes[1].split(b";") and all(cell):
        return Graphics("sixel", cell)
    return Graphics()


def sequence(image: Image, graphics: Graphics, columns: int, rows: int) -> str:
    """An RGB image as the control sequence that draws it from the cursor on.

    Args:
        image: any size; its shape is kept.
        graphics: of a terminal that can.
        columns, rows: characters that there is room for.
    """
    width, height = graphics.cell if all(graphics.cell) else (1, 2)
    scale = min(columns * width / image.width, rows * height / image.height)
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    if graphics.protocol == "sixel":
        return sixels(image.resize(size))
    if all(graphics.cell) and scale < 1:
        image = image.resize(size)
    return kitty(image, max(1, size[0] // width), max(1, size[1] // height))


def kitty(image: Image, columns: int, rows: int) -> str:
    """An RGB image in kitty's protocol, scaled by the terminal; it takes the place of the one before."""
    png = io.BytesIO()
    image.save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    first = f"a=T,f=100,i={os.getpid()},p=1,c={columns},r={rows},C=1,q=2,"
    parts = [f"{first if not i else ''}m={int(i < len(chunks) - 1)};{chunk}" for i, chunk in enumerate(chunks)]
    return "".join(f"\x1b_G{part}\x1b\\" for part in parts)


def kitty_gone() -> str:
    """Takes away what :func:`kitty` drew, which text does not overwrite."""
    return f"\x1b_Ga=d,d=I,i={os.getpid()},q=2\x1b\\"


def sixels(image: Image) -> str:
    """An RGB image as sixels: in bands of six rows, one colour after the other, in run lengths."""
    import numpy as np

    reduced = image.quantize(COLORS)
    palette = np.reshape(reduced.getpalette() or [], (-1, 3)) * 100 // 255
    pixels = np.asarray(reduced, np.int16)
    pixels = np.pad(pixels, ((0, -image.height % 6), (0, 0)), constant_values=-1)
    parts = [f'\x1bP0;1q"1;1;{image.width};{image.height}']
    parts += [f"#{number};2;{r};{g};{b}" for number, (r, g, b) in enumerate(palette)]
    bits = (1 << np.arange(6, dtype=np.uint8))[:, None]
    for band in pixels.reshape(-1, 6, image.width):
        for color in np.unique(band[band >= 0]):
            column = ((band == color) * bits).sum(axis=0, dtype=np.uint8) + 63
            starts = np.flatnonzero(np.diff(column, prepend=0))
            lengths = np.diff(starts, append=image.width).tolist()
            runs = zip(lengths, column[starts].tobytes().decode(), strict=True)
            parts.append(f"#{color}{''.join(f'!{n}{sixel}' if n > 3 else sixel * n for n, sixel in runs)}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"
