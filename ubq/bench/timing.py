"""How everything here is timed: warm-up, rounds in which the contenders take turns, medians, the machine's name.

Whatever else a machine does meets all contenders of a round alike, so a ratio within one run holds where seconds
of two runs do not.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ubq.cpu import cores, processor


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender.

    Attributes:
        median: over the rounds.
        rounds: every round's, in order.
    """

    median: float
    rounds: tuple[float, ...]


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    repeats: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Timing]:
    """Time calls against each other: in every round each is called in turn.

    Args:
        calls: by name, in the order of a round.
        rounds: timed rounds.
        warmup: rounds before them that do not count.
        repeats: calls of one contender within a round, where short; its seconds are those of one call.
        progress: called with (done, total) calls.

    Raises:
        ValueError: no rounds.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds")
    taken: dict[str, list[float]] = {name: [] for name in calls}
    done, total = 0, (warmup + rounds) * len(calls)
    for number in range(warmup + rounds):
        for name, call in calls.items():
            times = (repeats or {}).get(name, 1)
            begin = time.perf_counter()
            for _repeat in range(times):
                call()
            if number >= warmup:
                taken[name].append((time.perf_counter() - begin) / times)
            done += 1
            progress(done, total)
    return {name: Timing(statistics.median(seconds), tuple(seconds)) for name, seconds in taken.items()}


@contextmanager
def cpu_threads(count: int) -> Iterator[int]:
    """Torch's CPU threads inside the block, 0: all cores; yields their number."""
    import torch

    before = torch.get_num_threads()
    chosen = count or cores()
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(before)


def machine() -> str:
    """One line: processor, cores, memory, PyTorch; what a table of seconds is worth nothing without."""
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{processor()}, {cores()} cores, {memory:.0f} GiB{load}; torch {torch.__version__}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
