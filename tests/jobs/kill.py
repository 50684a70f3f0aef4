"""Kill a pipeline's process again and again, and judge what is left each time.

What is killed is a ``Pipeline``: the toy here, the real one elsewhere.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ubq.durable import read_rows
from ubq.jobs.status import snapshot
from ubq.stages.paths import RunPaths
from ubq.training.store import CheckpointStore

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Pipeline:
    """How to start a run in a process, and how it saves.

    Args:
        command: arguments after the interpreter; ``{folder}``, ``{parent}``, ``{name}`` and ``{seed}`` are filled in.
        interval: training steps between checkpoints.
    """

    command: tuple[str, ...]
    interval: int

    def start(self, folder: Path, seed: int = 0, *more: str, hold: str = "") -> subprocess.Popen[str]:
        """Start a run; the toy's stage ``hold`` waits (``toy.py``)."""
        places = {"folder": folder, "parent": folder.parent, "name": folder.name, "seed": seed}
        arguments = [a.format(**places) for a in (*self.command, *more)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TOY_HOLD": hold}
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=folder.parent,
        )

    def finish(self, folder: Path, seed: int = 0, *more: str) -> str:
        """Run to the end and return the output."""
        process = self.start(folder, seed, *more)
        output, _none = process.communicate()
        assert process.returncode == 0, output
        return output


def toy(epochs: int) -> Pipeline:
    """The toy pipeline, three training stages of so many steps of 2 ms, and an export."""
    program = str(Path(__file__).with_name("toy.py"))
    arguments = ("--seed", "{seed}", "--epochs", str(epochs), "--step-seconds", "0.002")
    return Pipeline((program, "{folder}", *arguments), interval=10)


def digest(folder: Path) -> str:
    """What the run made."""
    return json.loads((folder / "exported_models" / "manifest.json").read_text())["weights_sha256"]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metric rows."""
    return list(read_rows(folder / "metrics.jsonl"))


def events(folder: Path) -> list[dict[str, Any]]:
    return list(read_rows(folder / "events.jsonl"))


def saved_steps(folder: Path) -> dict[str, int]:
    """Newest sound checkpoint of each stage that is not complete."""
    if not (folder / "state.json").exists():
        return {}
    state = snapshot(folder).state
    return {
        s.name: CheckpointStore(RunPaths(folder).checkpoints(s.name)).latest_step()
        for s in state.stages
        if s.state not in ("completed", "pending")
    }


def check_after_kill(folder: Path) -> None:
    """Nothing that a killed process leaves behind may be corrupt."""
    if (folder / "state.json").exists():
        shot = snapshot(folder)
        assert shot.problem == ""
        assert shot.owner is None
        assert shot.shown in ("crashed", "completed", "partial"), shot.state
    for name in ("events.jsonl", "metrics.jsonl"):
        path = folder / name
        if path.exists():
            lines = path.read_bytes().split(b"\n")[:-1]  # the last may be torn
            assert all(isinstance(json.loads(line), dict) for line in lines)


def check_resumes(folder: Path, before: dict[str, int], seen: int, interval: int, reached: dict[str, int]) -> None:
    """The start after a kill went on from the checkpoints that were there, repeating at most one interval.

    Args:
        before: newest checkpoint of each unfinished stage, before that start.
        seen: events written before it.
        reached: last metric row of each stage before it.
    """
    started = [e for e in events(folder)[seen:] if e["event"] in ("stage_resumed", "stage_started")]
    first = {e["stage"]: e for e in reversed(started)}
    for stage, step in before.items():
        if step > 0 and stage in first:
            assert first[stage]["event"] == "stage_resumed"
            assert first[stage]["step"] == step
        if stage in first:
            assert reached.get(stage, 0) - first[stage]["step"] <= interval


def last_steps(folder: Path) -> dict[str, int]:
    return {r["stage"]: r["step"] for r in rows(folder)}


def kill(process: subprocess.Popen[str]) -> bool:
    """SIGKILL; False where it had ended by itself, which it may only do well."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    output, _none = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def kill_and_resume(pipeline: Pipeline, folder: Path, delays: Sequence[float], seed: int = 0) -> int:
    """Start, kill after each delay (seconds after the state file shows this process), then run to the end.

    Returns:
        How many kills hit.
    """
    hits = 0
    for delay in (*delays, None):
        before, seen, reached = saved_steps(folder), len(events(folder)), last_steps(folder)
        if delay is None:
            pipeline.finish(folder, seed)
        else:
            # Held at its last stage, the toy is there however late the kill comes.
            process = pipeline.start(folder, seed, hold="export")
            while process.poll() is None and len(events(folder)) <= seen:
                time.sleep(0.001)
            time.sleep(delay)
            hits += kill(process)
            check_after_kill(folder)
        check_resumes(folder, before, seen, pipeline.interval, reached)
    return hits


def kill_at_boundaries(pipeline: Pipeline, folder: Path, stages: Sequence[str], seed: int = 0) -> int:
    """Kill as soon as each stage's end is in the events, then run to the end."""
    hits = 0
    for stage in stages:
        before, seen, reached = saved_steps(folder), len(events(folder)), last_steps(folder)
        process = pipeline.start(folder, seed, hold="export")
        while process.poll() is None:
            if any(e["event"] == "stage_completed" and e["stage"] == stage for e in events(folder)[seen:]):
                break
            time.sleep(0.0005)
        hits += kill(process)
        check_after_kill(folder)
        check_resumes(folder, before, seen, pipeline.interval, reached)
    pipeline.finish(folder, seed)
    return hits


def instants(count: int, longest: float, seed: int = 20240229) -> list[float]:
    """The seeded list of random instants, seconds."""
    draw = random.Random(seed)
    return [draw.uniform(0.0, longest) for _i in range(count)]
