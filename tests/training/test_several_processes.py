"""Two processes train what one does: same data, same noise, figures that differ by rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import rank_cases
from tests.training.two_ranks import figures, one_thread, run_two
from ubq.distributed import RankInfo, first_host, rank_info

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two ranks came to in every case."""
    folder = tmp_path_factory.mktemp("ranks")
    run_two(rank_cases.__name__, folder, [*rank_cases.CASES])
    return folder


UNROUNDED = 11
"""Figures of a quantised training of ten steps before its activations are rounded."""


def one_and_two(case: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return one_thread(lambda: (rank_cases.CASES[case](), torch.load(folder / f"{case}.pt")))


@pytest.mark.parametrize("case", ["autoencoder", "accumulated"])
def test_the_autoencoder_begins_as_that_of_one_process(by_two: Path, case: str) -> None:
    """From the fourth step's gradient on, rounding shows: which of two equal patches stands first decides theirs."""
    one, two = one_and_two(case, by_two)
    assert figures(two)[:7] == pytest.approx(figures(one)[:7], rel=1e-5)


@pytest.mark.parametrize("case", ["diffusion", "head"])
def test_losses_and_weights_of_float_stages_are_those_of_one_process(by_two: Path, case: str) -> None:
    one, two = one_and_two(case, by_two)
    assert figures(two) == pytest.approx(figures(one), rel=1e-5)
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("observer", rank_cases.OBSERVERS)
def test_integers_of_quantisation_aware_training_are_within_one_step_of_one_process(
    by_two: Path, observer: str
) -> None:
    """Once activations are rounded, weights 1e-7 apart bring one process's own figures 2e-3 apart."""
    one, two = one_and_two(observer, by_two)
    assert figures(two)[:UNROUNDED] == pytest.approx(figures(one)[:UNROUNDED], rel=1e-5)
    assert figures(two) == pytest.approx(figures(one), rel=1e-2)
    for name, levels in one["integers"].items():
        assert (two["integers"][name] - levels).abs().max() <= 1, name
    for name, (scale, zero_point) in one["grids"].items():
        assert float(two["grids"][name][0]) == pytest.approx(float(scale), rel=1e-2), name
        assert abs(two["grids"][name][1] - zero_point) <= 1, name


def test_a_rank_without_memory_makes_all_of_them_go_on_in_smaller_parts(by_two: Path) -> None:
    one, two = one_and_two("out_of_memory", by_two)
    assert [e["accumulate"] for e in two["events"] if e["kind"] == "out_of_memory"] == [2]
    losses = [[row["loss"] for row in found["rows"] if "loss" in row] for found in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_ranks_are_those_of_torchrun_or_of_a_step_of_slurm() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert rank_info(torchrun) == RankInfo(3, 4, 1, 2)
    step = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
    assert rank_info({**step, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}) == RankInfo(5, 8, 1, 4)
    assert rank_info({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None, "a batch script is one process"
    assert rank_info({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert rank_info({}) is None


@pytest.mark.parametrize(
    ("nodes", "first"), [("a1", "a1"), ("a,b", "a"), ("gpu[03-05,9],other", "gpu03"), ("x[7]", "x7"), ("a,b[1-2]", "a")]
)
def test_a_group_meets_at_its_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
