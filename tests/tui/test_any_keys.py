"""Whatever keys are pressed, a screen that works stands at the end, and nothing was raised on the way."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import drive, make_run, screen_text, settle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from textual.pilot import Pilot

from ubq.jobs.detach import Detached
from ubq.tui import checklist, live, progress

KEYS = (
    "enter", "tab", "shift+tab", "up", "down", "left", "right", "space", "escape", "ctrl+g", "pagedown", "pageup",
    "backspace", "delete", "home", "end", "question_mark", "f1", "f2", "slash", "a", "c", "d", "n", "o", "r", "s", "y",
    "e", "m", "j", "k", "l", "w", "b", "z", "g", "h", "v", "plus", "f4",
    "1", "9", "minus", "full_stop", "comma", "x", "ctrl+c", "ctrl+u", "ctrl+w", "quotation_mark", "left_square_bracket",
)  # fmt: skip
SCREENS = ("start", "wizard", "progress", "checklist")
SIZES = ((60, 20), (80, 24), (120, 40), (20, 6))


@pytest.fixture(autouse=True)
def nothing_leaves_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(arguments: Sequence[str], run: Path, wait: float = 0.0) -> Detached:
        return Detached(os.getpid(), None, True, "")

    async def ubq_json(*arguments: str, timeout: float) -> dict[str, Any]:
        return {"error": "not here", "fix": ""}

    monkeypatch.setattr(progress, "start_detached", start)
    monkeypatch.setattr(live, "ubq_json", ubq_json)
    monkeypatch.setattr(checklist, "ubq_json", ubq_json)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("first", SCREENS)
@pytest.mark.usefixtures("probe")
def test_every_key_once_ends_in_a_valid_screen(first: str, size: tuple[int, int]) -> None:
    """On every screen at every size, in an order that is shuffled for each and always the same."""
    keys = random.Random(f"{first} {size}").sample(KEYS, len(KEYS))
    press(first, keys, size)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(first=st.sampled_from(SCREENS), keys=st.lists(st.sampled_from(KEYS), max_size=40), size=st.sampled_from(SIZES))
def test_any_keys_end_in_a_valid_screen(
    first: str, keys: list[str], size: tuple[int, int], probe: list[tuple[str, str]]
) -> None:
    press(first, keys, size)


def press(first: str, keys: Sequence[str], size: tuple[int, int]) -> None:
    """Open a screen, press the keys, and see that the interface stands."""
    Path("ubq.toml").unlink(missing_ok=True)
    run = make_run("failed", failed=("int8_fidelity",)) if not Path("runs/failed").exists() else Path("runs/failed")
    if not Path("runs/stopped").exists():
        make_run("stopped", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        app: Any = pilot.app
        if first == "wizard":
            app.open_wizard("smoke")
        elif first == "progress":
            app.open_run(run)
        elif first == "checklist":
            app.push_screen(checklist.ChecklistScreen(run))
        await settle(pilot)
        await pilot.press(*keys)
        await settle(pilot)
        assert app.is_running
        assert screen_text(app).strip()
        assert app.focused is None or app.focused.screen is app.screen
        # And it still obeys.
        await pilot.press("ctrl+q", "ctrl+q")  # the first asks where answers would be lost
        await settle(pilot)
        assert app.return_value == 0

    drive(steps, size=size)
