"""One exported model in each of its runtimes, side by side: seconds for a pair, of sampling and of decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ubq.bench.timing import Timing, cpu_threads, machine, markdown, take_turns
from ubq.runtime import SUFFIXES, load

SAMPLE, DECODE = "sample", "decode"
HEADER = ("runtime", "load s", "sample ms", "decode ms", "pair ms", "speed")


@dataclass(frozen=True)
class RuntimeTiming:
    """One runtime's figures, for one pair.

    Attributes:
        name: as in ``export.formats``.
        file: what was loaded.
        load: seconds, once.
        sample: noise to latent.
        decode: latent to pair.
    """

    name: str
    file: Path
    load: float
    sample: Timing
    decode: Timing

    @property
    def pair(self) -> float:
        """Median seconds for a pair."""
        return self.sample.median + self.decode.median

    def to_dict(self) -> dict[str, Any]:
        """As JSON; seconds."""
        return {
            "runtime": self.name,
            "file": str(self.file),
            "load": self.load,
            "sample": self.sample.median,
            "decode": self.decode.median,
        }


@dataclass(frozen=True)
class RuntimeComparison:
    """The runtimes of one model, the first the one that the others are held against."""

    runtimes: tuple[RuntimeTiming, ...]
    steps: int
    threads: int
    rounds: int

    def rows(self) -> list[tuple[str, ...]]:
        """Lines under ``HEADER``; speed is that of the first runtime's pair over this one's."""
        first = self.runtimes[0].pair
        return [
            (
                r.name,
                f"{r.load:.2f}",
                f"{1e3 * r.sample.median:.1f}",
                f"{1e3 * r.decode.median:.1f}",
                f"{1e3 * r.pair:.1f}",
                f"{first / r.pair:.2f} x",
            )
            for r in self.runtimes
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "steps": self.steps,
            "threads": self.threads,
            "rounds": self.rounds,
            "machine": machine(),
            "runtimes": [r.to_dict() for r in self.runtimes],
        }

    def to_markdown(self) -> str:
        """The table, and under it how it was measured."""
        note = f"{self.steps} steps, {self.threads} threads, medians of {self.rounds} alternating rounds; {machine()}"
        return f"{markdown(HEADER, self.rows())}\n\n{note}"


def measure_runtimes(
    files: Sequence[Path],
    rounds: int = 7,
    steps: int = 0,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RuntimeComparison:
    """Time exported files of one model against each other; in every round each is called in turn, from the same noise.

    Args:
        files: ``NAME.pt``, ``NAME.onnx``, ``NAME.pte``; the first is what the others are held against.
        rounds: timed rounds, after one that does not count.
        steps: sampling steps that the files offer; 0: their default.
        threads: CPU threads of every runtime; 0: all cores.
        progress: called with (done, total) calls.

    Raises:
        UsageError: a file that ubq did not export, or whose runtime is not installed.
    """
    generators, loading = {}, {}
    with cpu_threads(threads) as chosen:
        for file in files:
            begin = time.perf_counter()
            generators[file] = load(file, chosen)
            loading[file] = time.perf_counter() - begin
        first = generators[files[0]]
        count = first.check_steps(steps)
        x_T, step_noise = first.noise(0, range(1), count)
        latent = first.sample_latents(x_T, step_noise, count)
        calls: dict[str, Callable[[], object]] = {}
        for file, generator in generators.items():
            calls[f"{SAMPLE} {file}"] = lambda g=generator: g.sample_latents(x_T, step_noise, count)  # type: ignore[misc]
            calls[f"{DECODE} {file}"] = lambda g=generator: g.decode(np.asarray(latent))  # type: ignore[misc]
        taken = take_turns(calls, rounds, progress=progress)
    timings = tuple(
        RuntimeTiming(SUFFIXES[file.suffix], file, loading[file], taken[f"{SAMPLE} {file}"], taken[f"{DECODE} {file}"])
        for file in files
    )
    return RuntimeComparison(timings, count, chosen, rounds)
