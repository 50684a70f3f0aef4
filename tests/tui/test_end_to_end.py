"""The whole way in tmux, as a new user goes it: wizard, smoke job, checklist; then ``ubq status``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UBQ = f"{sys.executable} -m ubq"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # a machine that is busy with other things takes ten minutes for the job alone
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux (apt-get install tmux)"),
]


class Tmux:
    """A tmux server of its own, with one window."""

    def __init__(self, folder: Path) -> None:
        self.socket = f"ubq-test-{os.getpid()}"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-c", str(folder), "sh", env=environment
        )

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.socket, *arguments], capture_output=True, text=True, env=env, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    def wait(self, text: str, seconds: float = 60.0) -> str:
        """What is on the screen once ``text`` is."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = self.text()
            if text in seen:
                return seen
            time.sleep(0.2)
        raise AssertionError(f"{text!r} did not appear on\n{self.text()}")

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, timeout=30)


@pytest.fixture
def tmux(workplace: Path) -> Iterator[Tmux]:
    found = Tmux(workplace)
    yield found
    found.close()
    subprocess.run([*UBQ.split(), "stop", "--now"], cwd=workplace, capture_output=True, timeout=60)


def test_from_the_wizard_to_the_checklist_and_ubq_status(tmux: Tmux, workplace: Path) -> None:
    tmux.press(f"{UBQ} wizard; echo left with $?", "Enter")
    tmux.wait("New run")
    tmux.press("Enter")  # the first preset: smoke
    tmux.wait("1 Data")
    for title in ("2 Checkpoint", "3 Quantisation", "4 Training", "5 Export", "6 Review"):
        tmux.press("C-g")
        tmux.wait(title)
    tmux.wait("All checks passed", 120)
    tmux.press("Enter")  # Start has the focus
    tmux.wait("train-autoencoder", 60)
    tmux.wait("running", 60)

    # The interface goes and comes back; the job does not mind.
    tmux.press("C-q")
    tmux.wait("left with 0")
    shot = json.loads(
        subprocess.run([*UBQ.split(), "status", "--json"], cwd=workplace, capture_output=True, text=True).stdout
    )
    assert shot["owner"]["detached"]
    assert not shot["problem"]
    tmux.press("clear", "Enter")
    tmux.press(f"{UBQ} wizard smoke; echo gone with $?", "Enter")
    tmux.wait("verify")
    seen = tmux.wait("11 success marks", 1200)
    assert "too small to generate anything worth looking at" in " ".join(seen.split())
    tmux.press("C-q")
    tmux.wait("gone with 0")
    tmux.press("clear", "Enter")

    tmux.press(f"{UBQ} status", "Enter")
    seen = tmux.wait("smoke: completed")
    assert "smoke.pt" in seen
    assert (workplace / "ubq.toml").read_text().endswith('extends = "smoke"\n')
    assert (workplace / "runs/smoke/exported_models/report.json").is_file()
