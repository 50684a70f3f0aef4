"""A run of two processes: it goes on with another number of them, and after one was lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ubq.durable import read_rows
from ubq.errors import EXIT_STAGE_FAILED, EXIT_TERMINATE
from ubq.jobs.ranks import torchrun_command
from ubq.jobs.state import COMPLETED, FAILED, INTERRUPTED, RunState, read_state

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "jobs" / "group_toy.py"


def start(run: Path, processes: int, event: str = "", restarts: int = 0) -> int:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    torchrun += ["--max-restarts", str(restarts), "--monitor-interval", "0.05"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if event:
        environ["TOY_EVENT"] = event
    command = [sys.executable, *(torchrun if processes > 1 else []), str(TOY), str(run)]
    return subprocess.run(command, env=environ, stderr=subprocess.DEVNULL, check=False).returncode


def state(run: Path) -> RunState:
    found = read_state(run / "state.json")
    assert found is not None
    return found


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of a run of one process that nothing happens to."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    assert start(run, 1) == 0
    return losses(run)


def test_a_run_of_two_goes_on_with_one_and_with_two_again(tmp_path: Path, alone: list[float]) -> None:
    run = tmp_path / "run"
    assert start(run, 2, "7:1:stop") == 0, "torchrun must not start it again"
    assert state(run).state == INTERRUPTED
    assert [p["rank"] for p in state(run).processes] == [0, 1]
    assert start(run, 1, "18:0:stop") == EXIT_TERMINATE
    assert start(run, 2) == 0
    assert state(run).state == COMPLETED
    assert losses(run) == pytest.approx(alone, rel=1e-4)


def test_a_killed_process_costs_no_more_than_the_steps_since_the_last_checkpoint(
    tmp_path: Path, alone: list[float]
) -> None:
    run = tmp_path / "run"
    assert start(run, 2, "12:1:kill", restarts=1) == 0
    assert state(run).state == COMPLETED
    assert state(run).stages[0].resumed_from == 10
    assert losses(run) == pytest.approx(alone, rel=1e-4)


def test_a_run_that_cannot_go_on_says_what_ended_it(tmp_path: Path) -> None:
    assert start(tmp_path / "lost", 2, "12:1:kill") == EXIT_STAGE_FAILED
    assert state(tmp_path / "lost").state == FAILED
    assert start(tmp_path / "failed", 2, "12:1:fail") == EXIT_STAGE_FAILED
    error = state(tmp_path / "failed").error
    assert error is not None
    assert "process 1" in error["message"]
    assert "the data of this host are gone" in error["message"]
    assert error["fix"] == "mount them"


def test_options_of_the_group_go_to_torchrun_and_the_rest_to_every_process() -> None:
    typed = ["run", "--preset", "smoke", "--nproc", "2", "--nnodes=2", "--rdzv-endpoint", "a:29500", "--epochs", "3"]
    command = torchrun_command(typed, 2, "2", "a:29500", 3)
    assert command[command.index("ubq") + 1 :] == [
        "run", "--preset", "smoke", "--epochs", "3", "--set", "distributed.nproc=2",
    ]  # fmt: skip
    assert command[command.index("--rdzv-endpoint") + 1] == "a:29500"


def test_an_option_that_begins_like_one_of_torchruns_reaches_every_process() -> None:
    from torch.distributed.run import parse_args

    found = parse_args(torchrun_command(["run", "--run", "mine", "--preset", "smoke"], 2)[3:])
    assert (found.module, found.training_script) == (True, "ubq")
    assert found.training_script_args[:5] == ["run", "--run", "mine", "--preset", "smoke"]
