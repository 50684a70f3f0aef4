"""CPU share of the progress screen while a run writes 50 rows a second: ``python studies/tui_metrics.py [SECONDS]``.

The screen runs in a pseudo-terminal of 120x40 on a run that this script pretends to train. CPU time is that of the
process, as the kernel counts it, after the screen has come up.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import pty
import select
import signal
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

from tui_start import cpu_seconds

from ubq.config.load import load_config, write_frozen
from ubq.jobs.owner import this_process
from ubq.jobs.state import RUNNING, RunState, StageState, write_state

RATE = 50
STAGE = "train-diffusion"


def make_run(folder: Path) -> None:
    """A run that seems to be at work in this process."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(write_frozen(load_config("smoke", isolated=True).config))
    (folder / "owner.json").write_text(json.dumps(dataclasses.asdict(this_process("ubq run"))))


def write_rows(folder: Path, first: int, count: int) -> None:
    """Metric rows, a log line, and the state that a training loop keeps up to date."""
    with open(folder / "metrics.jsonl", "a") as metrics:
        for step in range(first, first + count):
            row = {"stage": STAGE, "step": step, "loss": 1 / math.sqrt(step) + 0.1 * math.sin(step) ** 2}
            metrics.write(json.dumps(row) + "\n")
    with open(folder / "run.log", "a") as log:
        log.write(f"2026-01-01T10:00:00Z {STAGE} {first}\n")
    entry = StageState(STAGE, RUNNING, first, 100_000, "train", loss=0.4, best_loss=0.3, rate=float(RATE), eta=60.0)
    run = RunState(folder.name, "smoke", RUNNING, "2026-01-01T10:00:00Z", stages=[entry])
    write_state(folder / "state.json", run)


def cpu_share(seconds: float) -> tuple[float, int]:
    """CPU seconds a second that the screen takes, and bytes a second that it sends to the terminal."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "runs" / "busy"
        make_run(folder)
        write_rows(folder, 1, 5000)
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(work)
            os.environ.update(TERM="xterm-256color", LANG="C.UTF-8")
            os.execv(sys.executable, [sys.executable, "-m", "ubq", "wizard", "busy"])
        try:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            step, seen, begun, before, sent = 5001, b"", 0.0, 0.0, 0
            while not begun or time.monotonic() < begun + seconds:
                write_rows(folder, step, RATE // 10)
                step += RATE // 10
                until = time.monotonic() + 0.1
                while (left := until - time.monotonic()) > 0:
                    if select.select([terminal], [], [], left)[0]:
                        data = os.read(terminal, 65536)
                        seen, sent = (seen + data)[-100_000:], sent + len(data)
                if not begun and b"steps/s" in seen and step > 5300:
                    begun, before, sent = time.monotonic(), cpu_seconds(pid), 0
            took = time.monotonic() - begun
            return (cpu_seconds(pid) - before) / took, round(sent / took)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(terminal)


if __name__ == "__main__":
    share, sent = cpu_share(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
    print(f"{RATE} rows/s: {100 * share:.1f} % of one core, {sent / 1000:.1f} kB/s to the terminal")
