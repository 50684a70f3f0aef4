"""Trainings as two processes: what starts them, and what is compared with one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def run_two(module: str, folder: Path, cases: Sequence[str]) -> None:
    """``python -m MODULE FOLDER CASE...`` as both ranks of a group, to their ends, which must be good.

    A group of which a signal ended a rank is started once more, as torchrun would, and the test says so.
    """
    codes, told = _ended(module, folder, cases)
    if min(codes) < 0:
        warnings.warn(f"a signal ended a rank; started once more:\n{told}", stacklevel=2)
        codes, told = _ended(module, folder, cases)
    assert codes == [0, 0], told


def _ended(module: str, folder: Path, cases: Sequence[str]) -> tuple[list[int], str]:
    """Exit codes of both ranks, and what they wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), *cases],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONFAULTHANDLER": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in started]
    codes = [process.returncode for process in started]
    return codes, "\n".join(f"rank {rank} ended with {codes[rank]}\n{errors[rank]}" for rank in range(2))


def one_thread(call: Callable[[], T]) -> T:
    """What ``call`` gives, computed as a rank computes it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return call()
    finally:
        torch.set_num_threads(threads)


def figures(training: dict[str, Any]) -> list[float]:
    """Losses, validation losses and gradient norms of a training, in order."""
    return [row[name] for row in training["rows"] for name in ("loss", "val_loss", "grad_norm") if name in row]
