"""Forward modelling: pairs a second of one process, and of one process for each core.

``ubq data forward`` is run on maps of its own, in a folder of its own, through all it does: checks, worker processes,
files. Starting the workers is part of it, as it is for a user, so many maps scale better than few.
"""

from __future__ import annotations

import itertools
import tempfile
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
        rates: pairs a second, by processes.
        scaling: rate a process over that of the fewest processes.
    """

    machine: str
    maps: int
    rounds: int
    rates: dict[int, float]
    scaling: dict[int, float]

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The table of ``bench/README.md``."""
        rows = [[str(n), f"{rate:.2f}", f"{rate / n:.2f}", f"{self.scaling[n]:.2f}"] for n, rate in self.rates.items()]
        table = markdown(["processes", "pairs/s", "pairs/s each", "scaling"], rows)
        note = f"{self.maps} maps for each process, medians of {self.rounds} alternating rounds; {self.machine}"
        return f"{table}\n\n{note}"


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
        maps: for each process.
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

        def call(count: int) -> Callable[[], object]:
            # a folder of its own each time: what is modelled already would be left as it is
            return lambda: forward_files(root / str(count), root / f"out{next(number)}", count)

        found = take_turns({str(n): call(n) for n in counts}, rounds, progress=progress)
    rates = {n: n * maps / found[str(n)].median for n in counts}
    one = rates[counts[0]] / counts[0]
    return ForwardResult(machine(), maps, rounds, rates, {n: rate / n / one for n, rate in rates.items()})
