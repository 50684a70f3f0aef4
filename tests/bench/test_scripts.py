"""The scripts of ``studies/`` that look at a finished run, on the smallest there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

STUDIES = Path(__file__).parents[2] / "studies"
MARK_FAILED = 5


def script(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run."""
    folder = tmp_path_factory.mktemp("runs")
    command = ["-m", "ubq", "run", "--preset", "smoke", "--runs-dir", str(folder)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=900)
    assert done.returncode == MARK_FAILED, done.stderr
    return folder / "smoke"


def test_ptq_against_qat_ends_in_a_table_and_quality_shows_both(run: Path, tmp_path: Path) -> None:
    few = ("--pairs", "8", "--physics", "2")
    command = (str(STUDIES / "ptq_qat.py"), str(run), "--out", str(tmp_path / "out"), "--seeds", "1", *few)
    table = script(*command)
    assert "| held-out figure | float | float+ | PTQ | QAT |" in table
    assert "E of generated pairs" in table
    assert script(*command) == table, "what is finished is not done again"
    shown = script(str(STUDIES / "quality.py"), str(run), "--ptq", str(tmp_path / "out/PTQ-0"), *few)
    assert "| held-out figure | PTQ | float | QAT | exported |" in shown
    assert "| qat-diffusion |" in shown
