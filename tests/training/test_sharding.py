"""A U-Net of which each of two processes holds a part trains as one of which each holds all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import sharding_cases
from tests.training.sharding_cases import CASES, STEPS, interrupted, trained
from tests.training.test_loop import Context
from tests.training.two_ranks import figures, one_thread, run_two

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
    run_two(sharding_cases.__name__, folder, names)
    return folder


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], rtol: float = 1e-3) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol / 10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("quantised", "rounded")])
def test_losses_and_weights_are_those_of_data_parallel_training(by_two: Path, case: str) -> None:
    found, wanted = torch.load(by_two / f"{case}-sharded.pt"), torch.load(by_two / f"{case}.pt")
    assert figures(found) == pytest.approx(figures(wanted), rel=1e-5)
    close(found["model"], wanted["model"])


def test_quantised_training_is_that_of_data_parallel_up_to_the_rounding_of_activations(by_two: Path) -> None:
    """On grids, a last bit becomes a level: weights 1e-7 apart bring one process's own figures up to 3 % apart."""
    found, wanted = torch.load(by_two / "quantised-sharded.pt"), torch.load(by_two / "quantised.pt")
    rounded = next(i for i, row in enumerate(wanted["rows"]) if "val_loss" in row)  # as they begin to be rounded
    assert rounded >= 3
    for part, bound in ((slice(rounded), 5e-5), (slice(rounded, None), 0.1)):
        rows = [figures({"rows": training["rows"][part]}) for training in (found, wanted)]
        assert rows[0] == pytest.approx(rows[1], rel=bound)
    close(found["model"], wanted["model"], rtol=0.1)


def test_a_step_with_rounded_activations_is_that_of_data_parallel_training(by_two: Path) -> None:
    """From the same weights; after a step they differ in the last bit."""
    found, wanted = (torch.load(by_two / f"rounded{how}.pt")["rows"][:2] for how in ("-sharded", ""))
    assert figures({"rows": found}) == pytest.approx(figures({"rows": wanted}), rel=1e-5)


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


@pytest.mark.parametrize("case", ["adamw", "quantised"])
def test_a_rank_that_is_gone_is_told_of_as_one(tmp_path: Path, case: str) -> None:
    run_two(sharding_cases.__name__, tmp_path, [f"{case}-lost"])
    assert torch.load(tmp_path / f"{case}-lost.pt")["error"]


def shapes(value: Any) -> Any:
    """A nested value with the type and shape of every tensor in its place."""
    if isinstance(value, torch.Tensor):
        return type(value), value.dtype, tuple(value.shape)
    if isinstance(value, dict):
        return {key: shapes(inner) for key, inner in value.items()}
    return [shapes(inner) for inner in value] if isinstance(value, list | tuple) else type(value)
