"""Forward modelling: pairs a second of one process, and of one process for each core.

``ubq data forward`` is run on maps of its own, in a folder of its own, through all it does: checks, worker processes,
files. The processes import PyTorch first, which takes the same seconds however many maps follow; they are shown beside
the rate, which counts from where every process has had time for its first pair.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ubq.bench.timing import machine, markdown, take_turns
from ubq.data.forward import forward_files
from ubq.data.synthetic import synthesise_velocity


@dataclass(frozen=True)
class ForwardResult:
    """Pairs a second by the number of processes.

    Attributes:
        maps: modelled by each process.
        start: seconds until every process has had its first pair, by processes.
        rates: pairs a second from there on.
        scaling: rate a process over that of the fewest processes.
    """

    machine: str
    maps: int
    rounds: int
    start: dict[int, float]
    rates: dict[int, float]
    scaling: dict[int, float]

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The table of ``bench/README.md``."""
        rows = [
            [str(n), f"{self.start[n]:.1f}", f"{rate:.2f}", f"{rate / n:.2f}", f"{self.scaling[n]:.2f}"]
            for n, rate in self.rates.items()
        ]
        table = markdown(["processes", "start s", "pairs/s", "pairs/s each", "scaling"], rows)
        note = f"{self.maps} maps for each process, medians of {self.rounds} alternating rounds; {self.machine}"
        return f"{table}\n\n{note}"


class Stopwatch:
    """When each pair of a run was ready; handed to ``forward_files`` as its progress."""

    def __init__(self, processes: int) -> None:
        self.processes, self.begin = processes, time.perf_counter()
        self.seconds: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        if done:
            self.seconds.append(time.perf_counter() - self.begin)

    @property
    def start(self) -> float:
        """Seconds until as many pairs were ready as there are processes."""
        return self.seconds[self.processes - 1]

    @property
    def rate(self) -> float:
        """Pairs a second from there on."""
        return (len(self.seconds) - self.processes) / (self.seconds[-1] - self.start)


def measure_forward(
    workers: Sequence[int],
    *,
    maps: int,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ForwardResult:
    """Time ``ubq data forward`` with each number of processes, in turn.

    Args:
        workers: numbers of processes.
        maps: for each process, two at least.
        rounds: alternating rounds.
        progress: called with (done, total).

    Raises:
        UsageError: deepwave is missing.
    """
    counts = sorted(set(workers))
    with tempfile.TemporaryDirectory(prefix="ubq-bench-") as name:
        root, number = Path(name), itertools.count()
        velocity = synthesise_velocity("curvefault-a", maps * counts[-1], seed=0)
        for count in counts:
            (root / str(count)).mkdir()
            np.save(root / str(count) / "model1.npy", velocity[: maps * count])

        watches: dict[int, list[Stopwatch]] = {n: [] for n in counts}

        def call(count: int) -> Callable[[], object]:
            def model() -> None:
                watches[count].append(Stopwatch(count))
                # a folder of its own each time: what is modelled already would be left as it is
                forward_files(root / str(count), root / f"out{next(number)}", count, watches[count][-1])

            return model

        take_turns({str(n): call(n) for n in counts}, rounds, warmup=0, progress=progress)
    start = {n: statistics.median(w.start for w in measured) for n, measured in watches.items()}
    rates = {n: statistics.median(w.rate for w in measured) for n, measured in watches.items()}
    one = rates[counts[0]] / counts[0]
    return ForwardResult(machine(), maps, rounds, start, rates, {n: rate / n / one for n, rate in rates.items()})
