"""The kill tests on ubq's own pipeline: the smoke preset, killed at stage boundaries and at random instants."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from kill import Pipeline, digest, instants, kill_and_resume, kill_at_boundaries, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMOKE = Pipeline(
    (
        *("-m", "ubq", "run", "--preset", "smoke", "--runs-dir", "{parent}", "--run", "{name}"),
        *("--set", "seed={seed}", "--set", "run.checkpoint_steps=2", "--set", "run.log_every=1", "--set", "threads=1"),
        *("--until", "export", "--set", "export.name=model"),
    ),
    interval=2,
)
TRAINING = ("train-autoencoder", "train-diffusion", "train-seismic", "qat-decoders", "qat-diffusion")


@pytest.fixture(scope="module")
def timed_reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run left alone, and the seconds it took."""
    pytest.importorskip("deepwave", reason="the smoke preset models its gathers: pip install 'ubq[physics]'")
    folder = tmp_path_factory.mktemp("reference") / "run"
    begin = time.monotonic()
    SMOKE.finish(folder)
    return folder, time.monotonic() - begin


@pytest.fixture
def reference(timed_reference: tuple[Path, float]) -> Path:
    return timed_reference[0]


def check_same(folder: Path, reference: Path) -> None:
    assert digest(folder) == digest(reference)
    assert rows(folder) == rows(reference)


def test_killed_at_the_boundaries_of_the_training_stages(tmp_path: Path, reference: Path) -> None:
    assert kill_at_boundaries(SMOKE, tmp_path / "run", TRAINING) == len(TRAINING)
    check_same(tmp_path / "run", reference)


def test_killed_at_random_instants(tmp_path: Path, timed_reference: tuple[Path, float]) -> None:
    reference, seconds = timed_reference
    # five lives together are shorter than a whole run, so each of them ends by a kill
    assert kill_and_resume(SMOKE, tmp_path / "run", instants(5, seconds / 6, seed=5)) == 5
    check_same(tmp_path / "run", reference)


def test_another_seed_makes_another_file(tmp_path: Path, reference: Path) -> None:
    SMOKE.finish(tmp_path / "run", seed=1)
    assert digest(tmp_path / "run") != digest(reference)
