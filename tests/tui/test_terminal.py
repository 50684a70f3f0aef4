"""``ubq wizard`` in a terminal of its own: start, signals, leaving, no terminal, plain prompts."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ubq.config.load import load_config
from ubq.tui import questions

REPOSITORY = Path(__file__).parents[2]
RESTORED = b"\x1b[?1049l"
"""Leaves the alternate screen."""


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm-256color", "LANG": "C.UTF-8", **more}


class Terminal:
    """A process in a pseudo-terminal."""

    def __init__(self, *arguments: str, **more: str) -> None:
        self.main, side = pty.openpty()
        termios.tcsetwinsize(self.main, (24, 80))
        self.before = termios.tcgetattr(side)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ubq", *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            env=environment(**more),
            start_new_session=True,
        )
        self.side = side
        self.seen = b""

    def read_until(self, text: bytes, seconds: float = 60.0) -> bytes:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _write, _error = select.select([self.main], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.seen[-2000:]
            self.seen += os.read(self.main, 65536)
        return self.seen

    def ended(self, seconds: float = 30.0) -> int:
        """Exit code; what it writes at its end is read, as a terminal does."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it did not end"
            if select.select([self.main], [], [], 0.05)[0]:
                self.seen += os.read(self.main, 65536)
        while select.select([self.main], [], [], 0.1)[0]:
            self.seen += os.read(self.main, 65536)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.main)
        os.close(self.side)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    found = Terminal("wizard")
    yield found
    found.close()


def test_the_first_frame_comes_without_torch_and_ctrl_q_leaves_the_terminal_as_it_was(terminal: Terminal) -> None:
    terminal.read_until(b"smoke")
    assert "libtorch" not in Path(f"/proc/{terminal.process.pid}/maps").read_text()
    os.write(terminal.main, b"\x11")
    assert terminal.ended() == 0
    assert RESTORED in terminal.seen
    assert termios.tcgetattr(terminal.side)[:4] == terminal.before[:4]
    assert b"Traceback" not in terminal.seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_close_it_cleanly(terminal: Terminal, number: int, code: int) -> None:
    terminal.read_until(b"smoke")
    terminal.process.send_signal(number)
    assert terminal.ended() == code
    assert b"Traceback" not in terminal.seen
    assert (RESTORED in terminal.seen) == (number == signal.SIGTERM)  # after a hangup there is no one to write to


def test_a_terminal_that_goes_away_ends_it(terminal: Terminal) -> None:
    terminal.read_until(b"smoke")
    terminal.process.send_signal(signal.SIGHUP)
    os.close(terminal.main)
    try:
        terminal.process.wait(30)
    finally:
        terminal.main = os.open(os.devnull, os.O_RDONLY)


def test_without_a_terminal_one_line_names_ubq_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ubq", "wizard"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "needs a terminal" in done.stderr
    assert "ubq run" in done.stderr


def questions_asked() -> int:
    """How many questions the wizard has for the preset smoke."""
    config = load_config("smoke", isolated=True).config
    return sum(q.shown_if(config) for step in [*questions.steps(), questions.review()] for q in step.questions)


def prompts(answers: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ubq", "wizard", "--no-tui", *arguments],
        input=answers,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )


def test_plain_prompts_ask_the_same_questions() -> None:
    answers = [""] * questions_asked()
    answers[1] = "?\nstyle-a"  # the family, after asking for help
    answers[3] = "many\n48"  # how many to synthesise, wrong at first
    done = prompts("\n".join(answers) + "\nno\n", "--preset", "smoke", "--runs-dir", "elsewhere")
    text = done.stdout
    for step in questions.steps():
        assert f"{step.title}: {step.about}" in text
    assert "OpenFWI data set: decides" in text
    assert "! needs integer >= 0" in text
    assert "ubq run --preset smoke --dataset style-a" in text


def test_plain_prompts_save_and_do_not_start_when_told_so() -> None:
    done = prompts("\n" * questions_asked() + "yes\nno\n", "--preset", "smoke")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(Path("ubq.toml").read_text()) == {"extends": "smoke"}
    assert not Path("runs").exists()


def test_plain_prompts_that_end_early_say_so_and_write_nothing() -> None:
    done = prompts("\n\n", "--preset", "smoke")
    assert done.returncode == 2
    assert "the input ended" in done.stderr
    assert not Path("ubq.toml").exists()
