"""Wall time of ``ubq status`` on a run, best and median of several: ``python studies/status_time.py [RUNS_DIR]``.

The target is 0.25 s on 2 cores.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 15


def measure(runs_dir: str) -> list[float]:
    """Seconds of each call, a first one left out."""
    times = []
    for _repeat in range(REPEATS + 1):
        begin = time.perf_counter()
        command = [sys.executable, "-m", "ubq", "status", "--runs-dir", runs_dir]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return times[1:]


if __name__ == "__main__":
    seconds = measure(sys.argv[1] if len(sys.argv) > 1 else "runs")
    print(f"ubq status: best {min(seconds):.3f} s, median {statistics.median(seconds):.3f} s of {len(seconds)}")
