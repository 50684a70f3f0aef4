"""Real allocations that fail: a stage in a process whose address space is limited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ubq.durable import read_rows

# The limit is counted from what is mapped as the stage begins to train: what Python, torch and the model
# take differs from machine to machine, what the batch takes on top does not.
LAUNCHER = """
import os, re, resource, sys
from ubq.training import loop

whole = loop.train

def limited(task, context, *rest):
    if context.stage == "train-seismic":
        size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
        limit = size + int(os.environ["SPARE"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    whole(task, context, *rest)

loop.train = limited
from ubq.cli import main
sys.exit(main(sys.argv[1:]))
"""
MB = 2**20
BATCH = 96
GATHERS = BATCH * 5 * 1000 * 70 * 4
"""Bytes of one float32 batch of gathers; the prediction and the target alone take two of these."""

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space through Linux's /proc"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with pairs of noise: nothing here depends on what they show."""
    where = tmp_path_factory.mktemp("memory")
    draw = np.random.default_rng(0)
    np.save(where / "model1.npy", draw.uniform(1500, 4500, (24, 1, 70, 70)).astype(np.float32))
    np.save(where / "data1.npy", draw.normal(0, 3, (24, 5, 1000, 70)).astype(np.float32))
    return where


def ubq(folder: Path, spare: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UBQ_")}
    environment |= {"SPARE": str(spare), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", LAUNCHER, "run", "--preset", "smoke", "--run", "r", "--until", "train-seismic"]
    data = ["--train-data", "data1.npy", "--train-label", "model1.npy", "--set", "threads=1"]
    short = ["--set", "train.autoencoder.steps=1", "--set", "train.seismic.steps=2"]
    return subprocess.run(
        [*command, *data, *short, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_batch_that_does_not_fit_goes_on_in_parts(folder: Path) -> None:
    done = ubq(folder, 2 * GATHERS, "--set", f"train.seismic.batch_size={BATCH}")
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "r"
    events = [e for e in read_rows(run / "events.jsonl") if e["event"] == "out_of_memory"]
    assert events, "the whole batch fitted"
    assert [e["accumulate"] for e in events] == [2**n for n in range(1, len(events) + 1)]
    assert {e["stage"] for e in events} == {"train-seismic"}
    assert events[0]["step"] == 0
    state = json.loads((run / "state.json").read_text())
    stage = next(s for s in state["stages"] if s["name"] == "train-seismic")
    assert stage["state"] == "completed"
    assert [n["accumulate"] for n in stage["notes"]] == [e["accumulate"] for e in events]
    rows = [r for r in read_rows(run / "metrics.jsonl") if r["stage"] == "train-seismic" and "loss" in r]
    assert [r["step"] for r in rows] == [1, 2]

    shown = subprocess.run(
        [sys.executable, "-m", "ubq", "status", "r"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    last = events[-1]
    assert f"out of memory at step {last['step']}: went on with {last['part_size']} samples at a time" in shown


def test_the_smallest_part_that_does_not_fit_is_one_line_with_the_fix(folder: Path) -> None:
    # The averaged weights of the smoke preset's seismic head take 22 MB, and so does the gradient.
    done = ubq(folder, 34 * MB, "--set", "train.seismic.batch_size=2", "--set", "train.seismic.fit_head=false")
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert "train-seismic: out of memory even in the smallest parts of a batch, 2 samples at a time" in lines[0]
    assert "smaller preset" in lines[1]
    assert "ubq resume r" in lines[-1]
    assert len(lines) == 3
    state = json.loads((folder / "runs" / "r" / "state.json").read_text())
    assert (state["error"]["stage"], state["error"]["cause"]) == ("train-seismic", "memory")
    assert "smaller preset" in state["error"]["fix"]
