"""Pictures in the terminal's own pixels: terminals that can, that cannot, and that do not answer."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from harness import drive, make_run, screen_text, settle
from PIL import Image
from test_terminal import Terminal, environment
from textual.pilot import Pilot

from ubq.tui.graphics import Graphics, kitty, sixels, told
from ubq.tui.picture import Picture, PictureScreen

KITTY = b"\x1b_Gi=1;OK\x1b\\"
SIXEL = b"\x1b[?62;4;22c"
NO_SIXEL = b"\x1b[?62;22c"
CELL = b"\x1b[6;20;10t"


@pytest.mark.parametrize(
    ("answer", "kernel", "graphics"),
    [
        (CELL + SIXEL, (0, 0), Graphics("sixel", (10, 20))),
        (SIXEL, (9, 18), Graphics("sixel", (9, 18))),
        (SIXEL, (0, 0), Graphics()),  # how large a picture would be nobody knows
        (KITTY + CELL + SIXEL, (0, 0), Graphics("kitty", (10, 20))),
        (KITTY + NO_SIXEL, (0, 0), Graphics("kitty", (0, 0))),
        (b"\x1b_Gi=1;ENOTSUPPORTED:off\x1b\\" + CELL + NO_SIXEL, (0, 0), Graphics()),
        (b"keys typed \x1b[A" + CELL + b"\x1b[?1;2;44c", (0, 0), Graphics()),
        (b"", (10, 20), Graphics()),
    ],
)
def test_what_a_terminal_answers(answer: bytes, kernel: tuple[int, int], graphics: Graphics) -> None:
    assert told(answer, kernel) == graphics


def ask(answer: bytes, term: str = "xterm-256color") -> tuple[str, bytes]:
    """What a process finds out about a terminal that answers so, and what the terminal was sent."""
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 80))
    before = termios.tcgetattr(side)
    script = "from ubq.tui.graphics import asked\nwith asked() as answer: found = answer()\nprint(found, 'END')"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=side, stdout=side, stderr=side, env=environment(TERM=term)
    )
    try:
        seen, answered = b"", False
        while b"END" not in seen:
            seen += os.read(main, 4096)
            if not answered and b"\x1b[c" in seen:
                answered = True
                os.write(main, answer)
        assert process.wait(30) == 0
        assert termios.tcgetattr(side)[:4] == before[:4]
        return re.findall(r"Graphics\(.*\)", seen.decode())[0], seen
    finally:
        process.kill()
        process.wait()
        os.close(main)
        os.close(side)


def test_a_terminal_is_asked_and_its_answer_is_not_shown() -> None:
    found, seen = ask(CELL + SIXEL)
    assert found == str(Graphics("sixel", (10, 20)))
    assert b"62;4" not in seen
    assert ask(KITTY + CELL + NO_SIXEL)[0] == str(Graphics("kitty", (10, 20)))


@pytest.mark.parametrize("term", ["tmux-256color", "screen", "xterm-256color"])
def test_a_silent_terminal_ends_the_wait_and_multiplexers_get_no_title_from_it(term: str) -> None:
    found, seen = ask(b"", term)
    assert found == str(Graphics())
    assert (b"\x1b_G" in seen) == (term == "xterm-256color")


@pytest.mark.parametrize("term", ["dumb", "linux"])
def test_some_terminals_are_not_asked(term: str) -> None:
    found, seen = ask(b"", term)
    assert found == str(Graphics())
    assert b"\x1b" not in seen


def test_without_a_terminal_nothing_is_asked() -> None:
    script = "from ubq.tui.graphics import asked\nwith asked() as answer: print(answer())"
    done = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment()
    )
    assert done.stdout == f"{Graphics()}\n", done.stderr


def decoded(text: str) -> np.ndarray:
    """Pixels that a terminal paints, (height, width, 3) in percent; -1 where it paints none."""
    width, height = (int(n) for n in re.match(r'\x1bP0;1q"1;1;(\d+);(\d+)', text).groups())  # type: ignore[union-attr]
    pixels = np.full((height + 5, width, 3), -1)
    colors, color, x, y = {}, "", 0, 0
    pattern = r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([?-~])|(\$)|(-)"
    data = text.split(";", 4)[4].removesuffix("\x1b\\")
    for new, red, green, blue, chosen, count, run, single, back, down in re.findall(pattern, data):
        if new:
            colors[new] = int(red), int(green), int(blue)
        elif chosen:
            color = chosen
        elif back or down:
            x, y = 0, y + 6 * bool(down)
        else:
            n = int(count or 1)
            for bit in range(6):
                if (ord(run or single) - 63) >> bit & 1:
                    pixels[y + bit, x : x + n] = colors[color]
            x += n
    return pixels[:height]


def test_sixels_paint_every_pixel_of_the_picture() -> None:
    shown = np.zeros((20, 33, 3), np.uint8)
    shown[3:17, 5:30] = 255, 0, 0
    shown[9, 7] = 0, 0, 255
    assert (decoded(sixels(Image.fromarray(shown))) == shown.astype(int) * 100 // 255).all()


def test_kitty_gets_the_picture_in_pieces_of_4096() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(Image.fromarray(noise), 8, 4))
    assert [controls[-3:] for controls, _data in pieces] == ["m=1"] * (len(pieces) - 1) + ["m=0"]
    assert "c=8,r=4" in pieces[0][0]
    assert len(pieces) > 1
    assert all(len(data) <= 4096 for _controls, data in pieces)


@pytest.mark.parametrize(("answer", "picture"), [(CELL + SIXEL, b"\x1bP0;1q"), (KITTY + NO_SIXEL, b"\x1b_Ga=T,f=100")])
def test_the_samples_in_the_terminals_own_pixels(answer: bytes, picture: bytes) -> None:
    run = make_run("mine")
    Image.new("RGB", (400, 300), "red").save(run / "exported_models/samples.png")
    terminal = Terminal("wizard", "mine")
    try:
        terminal.read_until(b"\x1b[c")
        os.write(terminal.main, answer)
        terminal.read_until(b"checklist")
        os.write(terminal.main, b"c")
        terminal.read_until(b"modules quantised")
        os.write(terminal.main, b"Gkkkk")
        terminal.read_until(b"samples.png")
        os.write(terminal.main, b"\r")
        terminal.read_until(picture)
        os.write(terminal.main, b"\x1b")
        terminal.read_until(b"\x1b_Ga=d" if picture.startswith(b"\x1b_G") else b"success marks")
        os.write(terminal.main, b"\x11")
        assert terminal.ended() == 0
        assert b"Traceback" not in terminal.seen
    finally:
        terminal.close()


def test_half_blocks_are_what_the_user_can_choose_instead(tmp_path: Path) -> None:
    file = tmp_path / "config/ubq/interface.toml"
    file.parent.mkdir(parents=True)
    file.write_text('pictures = "blocks"\n')
    terminal = Terminal("wizard")
    try:
        terminal.read_until(b"smoke")
        assert b"\x1b_G" not in terminal.seen
        assert b"\x1b[16t" not in terminal.seen
    finally:
        terminal.close()


def test_a_high_picture_is_as_wide_as_the_screen_and_scrolls() -> None:
    high = np.zeros((120, 80, 3), np.uint8)
    high[90:] = 255
    Image.fromarray(high).save("high.png")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(PictureScreen(Path("high.png")))
        await settle(pilot)
        picture = pilot.app.screen.query_one(Picture)
        assert "▀" * 80 in screen_text(pilot.app)  # type: ignore[arg-type]
        footer = screen_text(pilot.app).splitlines()[-1]  # type: ignore[arg-type]
        assert "↓ down" in footer
        assert "↑ up" not in footer
        for _press in range(6):
            await pilot.press("down")
        await settle(pilot)
        assert picture.top + picture.page == picture.rows == 120
        footer = screen_text(pilot.app).splitlines()[-1]  # type: ignore[arg-type]
        assert "↓ down" not in footer
        assert "↑ up" in footer

    drive(steps)
