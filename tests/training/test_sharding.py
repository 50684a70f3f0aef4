"""A U-Net of which each of two processes holds a part trains as one of which each holds all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import sharding_cases
from tests.training.sharding_cases import CASES, STEPS, interrupted, trained
from tests.training.test_loop import Context

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two ranks came to: each case both ways, and resumed from checkpoints of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    names = [*CASES, *(f"{case}-sharded" for case in CASES)]
    for case in ("adamw", "muon"):
        torch.save(one_thread(lambda case=case: interrupted(case, False).saved), folder / f"{case}-of-one.pt")
        names += [f"{case}-stopped", f"{case}-resumed"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", sharding_cases.__name__, str(folder), *names],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return folder


def one_thread(call: Any) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return call()
    finally:
        torch.set_num_threads(threads)


def figures(found: dict[str, Any]) -> list[float]:
    return [row[name] for row in found["rows"] for name in ("loss", "val_loss", "grad_norm") if name in row]


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_data_parallel_training(by_two: Path, case: str) -> None:
    found, wanted = torch.load(by_two / f"{case}-sharded.pt"), torch.load(by_two / f"{case}.pt")
    assert figures(found) == pytest.approx(figures(wanted), rel=1e-5 if case != "quantised" else 1e-3)
    close(found["model"], wanted["model"])


@pytest.mark.parametrize("case", ["adamw", "muon"])
def test_a_checkpoint_is_that_of_one_process_and_goes_on_there_and_back(by_two: Path, case: str) -> None:
    stopped, whole = torch.load(by_two / f"{case}-stopped.pt")["saved"], one_thread(lambda: trained(case))
    (step, payload), (_step, of_one) = stopped.popitem(), torch.load(by_two / f"{case}-of-one.pt").popitem()
    assert shapes(payload) == shapes(of_one)
    there = one_thread(lambda: trained(case, context=Context({step: payload})))
    assert there["rows"][0]["step"] == step + 1 < STEPS
    back = torch.load(by_two / f"{case}-resumed.pt")
    for found in (there, back):
        assert figures(found) == pytest.approx(figures(whole)[-len(figures(found)) :], rel=1e-5)
        close(found["model"], whole["model"])


def shapes(value: Any) -> Any:
    """A nested value with the type and shape of every tensor in its place."""
    if isinstance(value, torch.Tensor):
        return type(value), value.dtype, tuple(value.shape)
    if isinstance(value, dict):
        return {key: shapes(inner) for key, inner in value.items()}
    return [shapes(inner) for inner in value] if isinstance(value, list | tuple) else type(value)
