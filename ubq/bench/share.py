"""What a training keeps of its rate beside other work, by how long its threads wait awake for each other."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ubq.bench.timing import machine, markdown
from ubq.bench.train import prepare, train_process, write_files
from ubq.config.load import load_config

STAGE = "train-autoencoder"
LIBRARY = "libgomp's own"
"""The default of the library that PyTorch's threads come from."""


@dataclass(frozen=True)
class ShareResult:
    """Steps/s, median over the rounds: ``rates[waiting][busy processes]``."""

    machine: str
    preset: str
    threads: int
    rounds: int
    rates: dict[str, dict[int, float]]

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The table of ``bench/README.md``."""
        busy = list(next(iter(self.rates.values())))
        head = ["turns a thread waits awake", "idle, steps/s", *(f"beside {n} busy" for n in busy if n)]
        rows = []
        for waiting, by_busy in self.rates.items():
            cells = [f"{by_busy[n]:.2f} ({100 * by_busy[n] / by_busy[0]:.0f} %)" for n in busy if n]
            rows.append([waiting, f"{by_busy[0]:.2f}", *cells])
        return (
            f"{markdown(head, rows)}\n\n{STAGE} of {self.preset}, {self.threads} threads, medians of {self.rounds} "
            f"rounds; busy: processes that count; {self.machine}"
        )


def measure_share(
    preset: str,
    waits: Sequence[int],
    busy: Sequence[int],
    *,
    threads: int,
    steps: int,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ShareResult:
    """Train for some steps, idle and beside busy processes, with each way of waiting in turn.

    Args:
        preset: whose autoencoder is trained.
        waits: values of ``GOMP_SPINCOUNT``; the library's own default is measured first.
        busy: numbers of busy processes beside it; idle is measured first.
        threads: of the training.
        steps: of each process.
        rounds: in which all take their turn.
        progress: called with (done, total) processes.

    Raises:
        ConfigError: no such preset.
        StageError: a process failed.
    """
    names = [LIBRARY, *map(str, waits)]
    counts = sorted({0, *busy})
    seen: dict[tuple[str, int], list[float]] = {(name, n): [] for name in names for n in counts}
    with tempfile.TemporaryDirectory(prefix="ubq-bench-") as folder:
        root = Path(folder)
        config = load_config(preset, {"threads": threads, "device": "cpu"}, isolated=True).config
        write_files(root, 1, 0)
        prepare(config, root / "run", root, 1, False)
        for number in range(rounds):
            for turn, (name, n) in enumerate(seen):
                environ = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
                if name != LIBRARY:
                    environ["GOMP_SPINCOUNT"] = name
                with busy_processes(n):
                    figures = train_process(root / "run", STAGE, "ubq", steps, environ)
                seen[name, n].append(figures["steps_per_second"])
                progress(number * len(seen) + turn + 1, rounds * len(seen))
    rates = {name: {n: statistics.median(seen[name, n]) for n in counts} for name in names}
    return ShareResult(machine(), preset, threads, rounds, rates)


_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""
"""Ends by itself where its parent was killed, which has no chance to end it."""


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that do nothing but count while the block runs, and as long as this process lives."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
