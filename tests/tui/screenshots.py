"""The screenshots of the documentation, from runs that look like real ones: ``tests/tui/screenshots.py FOLDER``."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import ANSWERS, make_run, settle
from textual.pilot import Pilot

from ubq import cpu
from ubq.interface import Interface
from ubq.jobs import status
from ubq.jobs.owner import Owner
from ubq.tui import load, processes, progress, runlist
from ubq.tui.app import UbqApp
from ubq.tui.checklist import ChecklistScreen

SIZE = (100, 30)


async def take(folder: Path, name: str, app: UbqApp, pilot: Pilot[int]) -> None:
    await settle(pilot, 0.1)
    picture = app.export_screenshot(title="ubq wizard")
    # Blanks at the start of a text are kept by every renderer only where they are told to.
    picture = picture.replace("<svg ", '<svg xml:space="preserve" ', 1)
    (folder / f"{name}.svg").write_text(picture, encoding="utf-8")


async def pictures(folder: Path) -> None:
    app = UbqApp(Path("runs"), Path("ubq.toml"), Interface(theme="dark"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("n")
        await take(folder, "start", app, pilot)
        await pilot.press("enter")
        for _step in range(2):
            await pilot.press("ctrl+g")
            await settle(pilot)
        await take(folder, "wizard", app, pilot)
        app.pop_screen()
        app.open_run(Path("runs/curvefault-a-base"))
        await take(folder, "progress", app, pilot)
        app.pop_screen()
        app.push_screen(ChecklistScreen(Path("runs/demo")))
        await take(folder, "checklist", app, pilot)


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)

    async def ask(self: processes.Lookup, question: str, file: str, text: str, timeout: float = 0) -> dict[str, Any]:
        return ANSWERS[question]

    owner = Owner(4242, "trainer", "1", "1", "2026-01-01T10:00:00Z")
    # Nothing of this machine or moment on the pictures.
    processes.Lookup.ask = ask  # type: ignore[method-assign]
    status.holder = lambda run: owner if run.name == "curvefault-a-base" else None  # type: ignore[assignment]
    progress.pid_is_local = lambda owner: True  # type: ignore[assignment]
    measured = load.Load(7.6, 8, 4_210_000_000, 21_000_000_000)
    load.LoadMeter.read = lambda self, owner: measured  # type: ignore[method-assign]
    runlist.age = lambda updated: "5 min ago"  # type: ignore[assignment]
    cpu.cores = lambda: 8  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CONFIG_HOME"] = work
        os.chdir(work)
        make_run("demo", failed=("int8_fidelity",))
        make_run("curvefault-a-base", "running", rows=400)
        asyncio.run(pictures(folder))


if __name__ == "__main__":
    main()
