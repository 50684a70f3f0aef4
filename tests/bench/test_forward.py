"""What the rate of forward modelling is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from ubq.bench import forward
from ubq.bench.forward import Stopwatch, measure_forward


class Clock:
    """Told what time it is."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(forward.time, "perf_counter", made.perf_counter)
    return made


def test_the_rate_counts_from_the_first_pair_of_every_process(clock: Clock) -> None:
    watch = Stopwatch(2)
    watch(0, 8)  # said before any work
    for done, now in enumerate((104.0, 104.5, 105.0, 105.5, 106.0, 106.5), start=1):
        clock.now = now
        watch(done, 6)
    assert watch.start == 4.5
    assert watch.rate == 2.0


def test_processes_that_share_perfectly_scale_to_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    modelled = []

    def forward_files(velocity: Path, out: Path, workers: int, progress: Stopwatch) -> bool:
        modelled.append((velocity.name, out.name, workers))
        clock.now += 3.0  # imports
        for done in range(1, 4 * workers + 1):
            clock.now += 0.1 / workers
            progress(done, 4 * workers)
        return True

    monkeypatch.setattr(forward, "forward_files", forward_files)
    found = measure_forward([1, 2], maps=4, rounds=2)
    assert found.scaling == {1: 1.0, 2: pytest.approx(1.0)}
    assert found.rates == {1: pytest.approx(10.0), 2: pytest.approx(20.0)}
    assert found.start[1] == pytest.approx(3.1)
    assert len({out for _velocity, out, _workers in modelled}) == 4, "nothing may be there already"
    assert "| 2 | 3.1 | 20.00 | 10.00 | 1.00 |" in found.to_markdown()
