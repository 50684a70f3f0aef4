"""The disk fills up at any write: one clear line, exit 1, a readable state, and a resume once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kill import REPOSITORY, digest, rows

from ubq.jobs.status import snapshot

TOY = Path(__file__).with_name("toy.py")


def start(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOY), str(folder), "--epochs", "12"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        cwd=folder.parent,
    )


def check_failed_clearly(result: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    assert "space" in result.stderr
    assert "Traceback" not in result.stderr
    if (folder / "state.json").exists():
        shot = snapshot(folder)
        assert shot.problem == ""
        assert shot.shown in ("failed", "crashed")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The failing calls, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    target = tmp_path_factory.mktemp("full") / "full_disk.so"
    source = Path(__file__).with_name("full_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(source), "-ldl"], check=True)
    return target


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, library: Path) -> tuple[Path, int]:
    """A run with room enough, and how many calls of it could have failed."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    count = folder.parent / "count"
    done = start(folder, LD_PRELOAD=str(library), UBQ_FULL_PREFIX=str(folder), UBQ_FULL_COUNT=str(count))
    assert done.returncode == 0, done.stderr
    return folder, int(count.read_text())


def fill_and_resume(tmp_path: Path, library: Path, alone: tuple[Path, int], at: int) -> None:
    folder = tmp_path / f"run{at}"
    full = start(folder, LD_PRELOAD=str(library), UBQ_FULL_PREFIX=str(folder), UBQ_FULL_AT=str(at))
    check_failed_clearly(full, folder)
    again = start(folder)
    assert again.returncode == 0, again.stderr
    assert digest(folder) == digest(alone[0])
    assert rows(folder) == rows(alone[0])


def test_disk_full_at_some_writes(tmp_path: Path, library: Path, alone: tuple[Path, int]) -> None:
    count = alone[1]
    assert count > 100
    for at in (1, 2, 3, 5, *range(8, count, count // 8)):
        fill_and_resume(tmp_path, library, alone, at)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_disk_full_at_every_write(tmp_path: Path, library: Path, alone: tuple[Path, int], part: int) -> None:
    for at in range(1 + part, alone[1] + 1, 8):
        fill_and_resume(tmp_path, library, alone, at)


def test_a_real_full_disk(tmp_path: Path) -> None:
    """A tmpfs of 1 MB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        filler = disk / "filler"
        filler.write_bytes(b"\0" * 600_000)
        full = start(disk / "run")
        check_failed_clearly(full, disk / "run")
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        again = start(disk / "run")
        assert again.returncode == 0, again.stderr
        start(tmp_path / "alone")
        assert digest(disk / "run") == digest(tmp_path / "alone")
        assert rows(disk / "run") == rows(tmp_path / "alone")
    finally:
        subprocess.run(["umount", str(disk)], check=False)
