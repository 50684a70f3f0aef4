"""Rounds, medians and what a step count is chosen by; never a time."""

from __future__ import annotations

import pytest
import torch

from ubq.bench import timing
from ubq.bench.distance import Noise, Quality
from ubq.bench.kernel import Matrix, gemm_calls
from ubq.bench.steps import Point, smallest_within


def test_contenders_take_turns_and_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    cost = {"a": iter([100, 1, 5, 3]), "b": iter([100, 100, 2, 2, 2, 2, 8, 8])}

    def call(name: str) -> None:
        order.append(name)
        clock[0] += next(cost[name])

    seen: list[tuple[int, int]] = []
    found = timing.take_turns(
        {"a": lambda: call("a"), "b": lambda: call("b")},
        rounds=3,
        warmup=1,
        repeats={"b": 2},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert "".join(order) == "abb" * 4
    assert found["a"] == timing.Timing(3, (1, 5, 3))
    assert found["b"] == timing.Timing(2, (2, 2, 8))
    assert seen[-1] == (8, 8)
    with pytest.raises(ValueError, match="0 rounds"):
        timing.take_turns({}, rounds=0)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with timing.cpu_threads(1) as count:
        assert (count, torch.get_num_threads()) == (1, 1)
    assert torch.get_num_threads() == before


def test_a_table_is_markdown() -> None:
    assert timing.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_noise_is_the_same_for_every_step_count() -> None:
    noise = Noise(40, 6, seed=3)
    few, many = noise.batches(1), noise.batches(5)
    assert [len(x) for x, _n in few] == [32, 8]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(few, many, strict=True))
    assert many[0][1].shape == (4, 32, 1, 6)
    assert not torch.equal(few[0][0][:8], few[1][0])
    assert not torch.equal(few[0][0], Noise(40, 6, seed=4).batches(1)[0][0])


def quality(ratio: float, upper: float) -> Quality:
    return Quality(ratio, 1.0, ratio, 0.9, upper, upper <= 1.05, 10, 10)


def test_the_fewest_steps_whose_interval_lies_within_are_chosen() -> None:
    points = [
        Point("int8", "dpmpp2m", 4, quality(1.00, 1.06)),  # the estimate holds, the interval does not
        Point("int8", "ddim", 10, quality(1.01, 1.04)),
        Point("int8", "dpmpp2m", 10, quality(0.99, 1.03)),
        Point("int8", "dpmpp2m", 20, quality(0.90, 0.95)),
        Point("float", "ddim", 4, quality(0.90, 0.95)),
    ]
    chosen = smallest_within(points, "int8")
    assert chosen is not None
    assert (chosen.solver, chosen.steps) == ("dpmpp2m", 10)
    assert smallest_within(points[:1], "int8") is None


def test_matrix_products_run_on_this_machine() -> None:
    run = gemm_calls([Matrix(3, 8, 16), Matrix(3, 8, 16), Matrix(1, 4, 2)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    assert sum(e.count for e in profile.key_averages() if e.key == "quantized::linear") == 3
    assert Matrix(3, 8, 16).macs == 3 * 8 * 16
