"""What a training keeps of its rate beside other work: which processes are compared, and how they wait."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from ubq.bench import share
from ubq.cpu import SPINS, wait_asleep


def test_every_way_of_waiting_meets_every_load_and_the_table_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[str | None, int]] = []
    beside = 0

    class Counting:
        def __init__(self, *_words: object) -> None:
            nonlocal beside
            beside += 1

        def kill(self) -> None:
            nonlocal beside
            beside -= 1

        def wait(self) -> None: ...

    def train_process(_run: Path, _stage: str, _way: str, _steps: int, environ: Mapping[str, str]) -> dict[str, float]:
        met.append((environ.get("GOMP_SPINCOUNT"), beside))
        return {"steps_per_second": 10.0 / (1 + beside)}

    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setattr(share, "write_files", lambda *_words: None)
    monkeypatch.setattr(share, "prepare", lambda *_words: None)
    monkeypatch.setattr(share, "train_process", train_process)
    monkeypatch.setattr(share.subprocess, "Popen", Counting)
    result = share.measure_share("demo", [100], [1], threads=2, steps=2, rounds=1)
    assert met == [(None, 0), (None, 1), ("100", 0), ("100", 1)]
    assert beside == 0
    assert "| 100 | 10.00 | 5.00 (50 %) |" in result.to_markdown()


def test_busy_processes_end_with_a_bench_that_was_killed() -> None:
    within = "with busy_processes(2): print(flush=True); time.sleep(60)"
    script = f"import time; from ubq.bench.share import busy_processes\n{within}"
    bench = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert bench.stdout
    assert bench.stdout.readline()
    busy = psutil.Process(bench.pid).children()
    assert len(busy) == 2
    bench.kill()
    bench.wait()
    _gone, alive = psutil.wait_procs(busy, timeout=20)
    assert not alive


@pytest.mark.parametrize(
    ("given", "then"),
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_what_the_user_set_stays(given: dict[str, str], then: str | None) -> None:
    script = f"from ubq.cpu import wait_asleep; e = {given!r}; wait_asleep(e); print(e.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(then)


def test_once_torch_is_loaded_nothing_is_promised() -> None:
    import torch  # noqa: F401

    environ: dict[str, str] = {}
    wait_asleep(environ)
    assert environ == {}
