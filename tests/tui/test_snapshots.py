"""How every screen looks: its characters at three sizes in two languages, its colours in three themes.

``UBQ_UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py`` writes them anew; look at the difference before you
commit it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from harness import drive, make_run, screen_text, settle, until
from rich.cells import cell_len
from textual.pilot import Pilot

from ubq import cpu
from ubq.i18n import gettext as _
from ubq.jobs import status
from ubq.jobs.owner import Owner
from ubq.tui import draft, load, progress, runlist
from ubq.tui.checklist import ChecklistScreen

FOLDER = Path(__file__).parent / "snapshots"
LANGUAGE = "zh_CN" if os.environ.get("UBQ_LANG") == "zh_CN" else ""
"""Of this process, Chinese in the one that ``test_characters_in_chinese`` starts: words of keys are read at import."""
UPDATE = bool(os.environ.get("UBQ_UPDATE_SNAPSHOTS"))
SIZES = ((60, 20), (80, 24)) if LANGUAGE else ((60, 20), (80, 24), (120, 40))
THEMES = ("dark", "light", "terminal")
SCREENS = ("start", "data", "quantisation", "training", "review", "progress", "checklist", "help", "stop")


@pytest.fixture(autouse=True)
def nothing_that_differs(monkeypatch: pytest.MonkeyPatch, probe: list[tuple[str, str]]) -> None:
    """No time, no machine, no process of its own on the screen."""
    monkeypatch.setattr(draft, "schema_comment", lambda file: "#:schema ./presets/schema.json\n")
    monkeypatch.setattr(runlist, "age", lambda updated: "5 min ago")
    monkeypatch.setattr(cpu, "cores", lambda: 2)
    monkeypatch.setattr(load.LoadMeter, "read", lambda self, owner: load.Load(1.9, 2, 621_000_000, 5_300_000_000))
    owner = Owner(4242, "trainer", "1", "1", "2026-01-01T10:00:00Z")
    monkeypatch.setattr(status, "holder", lambda folder: owner if folder.name == "running" else None)
    monkeypatch.setattr(progress, "pid_is_local", lambda owner: True)


async def go_to(pilot: Pilot[int], name: str) -> None:
    """Bring a screen up."""
    app: Any = pilot.app
    wizard_steps = {"data": 0, "quantisation": 2, "help": 2, "training": 3, "review": 5}
    if name in wizard_steps:
        app.open_wizard("smoke")
        await settle(pilot)
        for _step in range(wizard_steps[name]):
            await pilot.press("ctrl+g")
            await settle(pilot)
        if name == "help":
            await pilot.press("question_mark")
    elif name in ("progress", "stop"):
        app.open_run(Path("runs/running"))
        await until(pilot, lambda: "621 MB" in screen_text(app))  # the load, from the second look at the run on
        if name == "stop":
            await pilot.press("s")
    elif name == "checklist":
        app.push_screen(ChecklistScreen(Path("runs/done")))
    await settle(pilot, 0.05)
    if name not in ("help", "stop"):  # the footer is made anew whenever the keys that can act change
        await until(pilot, lambda: f"? {_('help')}" in screen_text(app))


def at(name: str, then: Callable[[Any], None]) -> Callable[[Pilot[int]], Awaitable[None]]:
    make_run("done", failed=("int8_fidelity",))
    make_run("running", "running")
    for n, run in enumerate(("done", "running")):  # which of them is newer
        os.utime(Path("runs", run, "state.json"), (2_000_000_000 + n, 2_000_000_000 + n))
        os.utime(Path("runs", run, "config.toml"), (1, 1))

    async def steps(pilot: Pilot[int]) -> None:
        await go_to(pilot, name)
        then(pilot.app)

    return steps


def compare(path: Path, found: str) -> None:
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert path.is_file(), "no such snapshot: UBQ_UPDATE_SNAPSHOTS=1 makes it"
    assert found == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", SCREENS)
def test_characters(name: str, size: tuple[int, int]) -> None:
    def check(app: Any) -> None:
        text = screen_text(app)
        assert all(cell_len(line) <= size[0] for line in text.splitlines())
        assert f"? {_('help')}" in text or name in ("help", "stop"), "the way to help is always shown"
        compare(FOLDER / LANGUAGE / f"{name}-{size[0]}x{size[1]}.txt", text.rstrip() + "\n")

    drive(at(name, check), size=size)


@pytest.mark.skipif(bool(LANGUAGE), reason="this is the process that it starts")
def test_characters_in_chinese() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    options = ("-p", "no:xdist", "-x", "-k", "test_characters and not chinese")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, *options],
        cwd=Path(__file__).parents[2],
        env={**kept, "UBQ_LANG": "zh_CN", "UBQ_UPDATE_SNAPSHOTS": "1" if UPDATE else ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert f"{2 * len(SCREENS)} passed" in done.stdout


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", ["start", "quantisation", "progress", "checklist"])
def test_colours(name: str, theme: str) -> None:
    """Each style that is used, with the first text it is used on."""

    def check(app: Any) -> None:
        used: dict[str, str] = {}
        for strip in app.screen._compositor.render_strips(app.size):
            for segment in strip:
                if segment.text.strip():
                    used.setdefault(str(segment.style), segment.text.strip()[:24])
        compare(
            FOLDER / f"{name}-{theme}.styles", "".join(f"{style}: {text}\n" for style, text in sorted(used.items()))
        )

    drive(at(name, check), theme=theme)


@pytest.mark.parametrize("name", ["start", "quantisation", "progress", "checklist"])
def test_nothing_is_told_by_colour_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR no colour is sent, and the characters are the same."""
    monkeypatch.setenv("NO_COLOR", "1")

    def check(app: Any) -> None:
        assert app.no_color
        assert screen_text(app).rstrip() + "\n" == (FOLDER / f"{name}-80x24.txt").read_text(encoding="utf-8")
        for line in app.screen._compositor.render_strips(app.size):
            for segment in line.apply_filter(app._filters[-1], app.screen.background_colors[0]):
                color = segment.style.color if segment.style else None
                if color and color.triplet:
                    assert len({color.triplet.red, color.triplet.green, color.triplet.blue}) == 1

    drive(at(name, check))
