"""SIGKILL at every stage boundary and at random instants, with the toy pipeline in real processes.

3 + 9 kills here, 40 marked slow, 200 marked chaos; the instants come from a seeded list.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kill import digest, instants, kill_and_resume, kill_at_boundaries, rows, toy

STAGES = ("autoencoder", "diffusion", "qat")
# Long enough that the kills of one run all fall into it.
SHORT, LONG, LONGEST = 100, 250, 600


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A run of so many steps a stage that was left alone."""
    done: dict[int, Path] = {}

    def make(epochs: int) -> Path:
        if epochs not in done:
            done[epochs] = tmp_path_factory.mktemp("reference") / "run"
            toy(epochs).finish(done[epochs])
        return done[epochs]

    return make


def check_same(folder: Path, reference: Path) -> None:
    assert digest(folder) == digest(reference)
    assert rows(folder) == rows(reference)


def test_killed_at_every_stage_boundary(tmp_path: Path, reference: Callable[[int], Path]) -> None:
    assert kill_at_boundaries(toy(SHORT), tmp_path / "run", STAGES) == 3
    check_same(tmp_path / "run", reference(SHORT))


@pytest.mark.parametrize("part", range(3))
def test_killed_at_random_instants(tmp_path: Path, reference: Callable[[int], Path], part: int) -> None:
    delays = instants(9, 0.2)[3 * part : 3 * part + 3]
    assert kill_and_resume(toy(SHORT), tmp_path / "run", delays) == 3
    check_same(tmp_path / "run", reference(SHORT))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_killed_at_40_random_instants(tmp_path: Path, reference: Callable[[int], Path], part: int) -> None:
    delays = instants(40, 0.25, seed=40)[4 * part : 4 * part + 4]
    assert kill_and_resume(toy(LONG), tmp_path / "run", delays) == 4
    check_same(tmp_path / "run", reference(LONG))


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(20))
def test_killed_at_200_random_instants(tmp_path: Path, reference: Callable[[int], Path], part: int) -> None:
    delays = instants(200, 0.25, seed=200)[10 * part : 10 * part + 10]
    assert kill_and_resume(toy(LONGEST), tmp_path / "run", delays) == 10
    check_same(tmp_path / "run", reference(LONGEST))


def test_another_seed_makes_something_else(tmp_path: Path, reference: Callable[[int], Path]) -> None:
    toy(SHORT).finish(tmp_path / "run", seed=1)
    assert digest(tmp_path / "run") != digest(reference(SHORT))
    assert rows(tmp_path / "run") != rows(reference(SHORT))


def test_the_comparison_notices_a_step_written_twice_and_one_lost(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy(3).finish(tmp_path / name)
    check_same(tmp_path / "a", tmp_path / "b")
    path = tmp_path / "a" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for changed in ([lines[0], *lines], lines[1:]):
        path.write_text("".join(changed))
        with pytest.raises(AssertionError):
            check_same(tmp_path / "a", tmp_path / "b")
