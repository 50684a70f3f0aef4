"""Runs that look like real ones, and the interface driven by keys."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from ubq.interface import Interface
from ubq.jobs.state import COMPLETED, FAILED, PENDING, RunState, StageState, write_state
from ubq.tui.app import UbqApp

STAGES = ("prepare", "train-autoencoder", "train-seismic", "train-diffusion", "qat-decoders", "qat-diffusion")
MARKS = {
    "quantised_modules": (0.407, 0.3, "94 of 231 leaf modules of the exported graph are int8"),
    "conv1d_left": (0, 0, "0 in the exported graph, of 75 in the float model"),
    "loss_falling": (5, 5, "all stages"),
    "file_size": (12_956_881, 2_000_000_000, "bytes of smoke.pt"),
    "generation": (6, 6, "fresh process without ubq"),
    "int8_fidelity": ({"velocity": 0.013, "seismic": 0.036}, {"velocity": 0.05, "seismic": 0.05}, "relative L2"),
    "diversity": (0.81, 0.7, "64 generated maps"),
    "beats_noise": (0.31, 0.5, "250 held-out maps"),
    "physics": (0.032, 0.05, "E of 6 pairs"),
    "lattice": (1.2, 2.0, "512 generated maps"),
    "variogram": (0.14, 0.25, "250 held-out maps"),
}
GB = 1_000_000_000
ANSWERS: dict[str, dict[str, Any]] = {
    "estimate": {
        "memory": {"train-autoencoder": 0.4 * GB, "qat-decoders": 0.6 * GB},
        "available": 8 * GB,
        "file_bytes": 5_700_000,
        "disk": 0.3 * GB,
        "free": 40 * GB,
        "operations": 6.5e9,
        "pairs": 24,
    },
    "data": {"checks": [{"status": "ok", "figure": "none given: 24 pairs will be synthesised", "fix": ""}]},
    "preflight": {
        "checks": [
            {"id": "synthesis", "status": "ok", "figure": "forward modelling is installed", "fix": ""},
            {"id": "memory", "status": "warning", "figure": "little memory", "fix": "--set qat.batch_size=4"},
        ],
        "plan": [{"name": "prepare", "action": "run"}],
        "exists": False,
    },
}
"""What the probe says, as far as a test does not ask the real one."""


def make_run(
    name: str, state: str = COMPLETED, *, failed: tuple[str, ...] = (), folder: Path = Path("runs"), rows: int = 8
) -> Path:
    """A run's folder: configuration, state, metrics, log and, when completed, a report.

    Args:
        name: of the run.
        state: completed, running (without a process: crashed), interrupted or failed.
        failed: success marks that failed.
        folder: of the runs.
        rows: of metrics for each training stage.
    """
    from ubq.config import presets
    from ubq.config.load import load_config, write_frozen

    root = folder / name
    exported = root / "exported_models"
    exported.mkdir(parents=True)
    overrides = {"run.name": name, "run.dir": str(folder)}
    (root / "config.toml").write_text(write_frozen(load_config("smoke", overrides, isolated=True).config))
    stages = [
        StageState(s, COMPLETED, 8, 8, "train", loss=0.4, best_loss=0.38, seconds=12.0, last_checkpoint=8)
        for s in STAGES
    ]
    stages[0].loss = stages[0].best_loss = None
    preset = name if presets.find(name) else "smoke"
    run = RunState(name, preset, state, "2026-01-01T10:00:00Z", next_command=f"ubq resume {name}", stages=stages)
    if state != COMPLETED:
        at_work = stages[3]
        at_work.state, at_work.step, at_work.rate, at_work.eta = state, 5, 2.5, 75.0
        for stage in stages[4:]:
            stage.state, stage.step, stage.loss, stage.best_loss, stage.seconds = PENDING, 0, None, None, 0.0
    if state == FAILED:
        stages[3].error = {"message": "out of memory: tried to allocate 2 GB", "fix": "smaller batches"}
        run.error = {"stage": STAGES[3], "cause": "memory", **stages[3].error}
        run.exit_code = 1
    if state == COMPLETED:
        run.next_command, run.exit_code = "", 5 if failed else 0
        marks = [
            {"id": m, "passed": m not in failed, "value": v, "threshold": t, "how": how}
            for m, (v, t, how) in MARKS.items()
        ]
        report = {"format_version": 1, "run": name, "passed": not failed, "marks": marks, "details": {}}
        (exported / "report.json").write_text(json.dumps(report))
        (exported / "smoke.pt").write_bytes(b"0" * 4096)
        (exported / "samples.png").write_bytes(b"0" * 1024)
    write_state(root / "state.json", run)
    measured = [
        {"stage": stage, "step": step, key: round(high / step**0.5 + 0.05 * math.sin(step * 2.4) + 0.1, 4)}
        for stage in STAGES[1:4]
        for step in range(1, rows + 1)
        for key, high, every in (("loss", 1.0, 1), ("val_loss", 1.2, max(1, rows // 10)))
        if step % every == 0
    ]
    (root / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in measured))
    lines = [f"2026-01-01T10:00:{i:02d}Z {stage}: complete in 12 s" for i, stage in enumerate(STAGES)]
    (root / "run.log").write_text("\n".join(lines) + "\n")
    return root


def drive(
    steps: Callable[[Pilot[int]], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
    theme: str = "dark",
    **options: Any,
) -> UbqApp:
    """Run the interface and do ``steps`` in it; what it raises, the test raises."""
    app = UbqApp(Path("runs"), Path("ubq.toml"), Interface(theme=theme, **options))

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(WatchedThreads())
        async with app.run_test(size=size, notifications=True) as pilot:
            await pilot.pause()
            await steps(pilot)

    asyncio.run(main())
    return app


async def settle(pilot: Pilot[int], seconds: float = 0.0) -> None:
    """Let messages and workers be done: until the screen stays as it is.

    A pause of Textual's ends where the process got no processor for 20 ms, so one alone proves nothing on a busy
    machine.
    """
    await pilot.pause(seconds)
    before, calls = None, _calls_in_threads()
    for _attempt in range(50):
        await pilot.pause()
        now = (pilot.app.screen, screen_text(pilot.app))  # type: ignore[arg-type]
        if now == before and not calls & _calls_in_threads():
            return
        before, calls = now, _calls_in_threads()


class WatchedThreads(ThreadPoolExecutor):
    """The threads of a loop, with what they have been given and have not done."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: set[Future[Any]] = set()

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future = super().submit(call, *args, **options)
        self.calls.add(future)
        future.add_done_callback(self.calls.discard)
        return future


def _calls_in_threads() -> set[Future[Any]]:
    threads = asyncio.get_running_loop()._default_executor  # type: ignore[attr-defined]
    return set(threads.calls) if isinstance(threads, WatchedThreads) else set()


async def until(pilot: Pilot[int], condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something to become true."""
    for _attempt in range(int(seconds / 0.05)):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("it did not become true in time")


def screen_text(app: UbqApp) -> str:
    """The characters on the screen, a line each."""
    size = app.size
    return "\n".join(
        "".join(segment.text for segment in strip).rstrip() for strip in app.screen._compositor.render_strips(size)
    )


def messages(app: UbqApp) -> str:
    """What the app has to say."""
    return app.notice
