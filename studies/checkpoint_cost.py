"""What a checkpoint costs training: written before the next step, and beside it.

``python studies/checkpoint_cost.py [--mb 200] [--folder DIR]``. A state of that size, a fifth of it one tensor as the
seismic head is, is saved as a stage saves it (hash, fsync and rename included): by the store itself, which training
used to wait for, and by ``ubq.training.saving``, where it waits for a copy alone. The two alternate; medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ubq.training.saving import Saver
from ubq.training.store import CheckpointStore

REPEATS = 7
TENSORS = 400


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def state_of(megabytes: int) -> dict[str, object]:
    """Tensors of so many megabytes together."""
    elements = megabytes * 250_000
    small = 4 * elements // 5 // TENSORS
    tensors = {str(n): torch.randn(small) for n in range(TENSORS)}
    return {"model": tensors | {"head": torch.randn(elements - TENSORS * small)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=200, help="size of the checkpoint")
    parser.add_argument("--folder", type=Path, help="disk to measure; a temporary folder otherwise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    payload = state_of(arguments.mb)
    waits: dict[str, list[float]] = {"written before the next step": [], "written beside it": []}
    durable: list[float] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = CheckpointStore(Path(folder))
        saver = Saver(store, lambda step: None)
        before, beside = waits.values()
        for step in range(1, 2 * REPEATS, 2):
            before.append(seconds(lambda: store.save(step, payload)))  # noqa: B023
            begin = time.perf_counter()
            beside.append(seconds(lambda: saver.save(step + 1, payload, wait=False)))  # noqa: B023
            saver.settle(wait=True)
            durable.append(time.perf_counter() - begin)
    print(f"Checkpoint of {arguments.mb} MB, {REPEATS} saves each, one thread\n")
    print("| checkpoint | training waits, s |\n|---|---|")
    for how, times in waits.items():
        print(f"| {how} | {statistics.median(times):.3f} |")
    ratio = statistics.median(a / b for a, b in zip(beside, before, strict=True))
    print(f"\nbeside / before {ratio:.2f}; durable after {statistics.median(durable):.3f} s")


if __name__ == "__main__":
    main()
