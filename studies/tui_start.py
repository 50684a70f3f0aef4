"""CPU time of ``ubq wizard`` until its first frame, in a pseudo-terminal: ``python studies/tui_start.py [REPEATS]``.

Prints one line for each start and the median. User and system time of the process are counted as the kernel
does, so that other programs on the machine matter little.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

LIMIT_S = 0.8
FIRST_FRAME = b"smoke"
"""Text of the start screen: the first preset."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_frame(timeout: float = 60.0) -> tuple[float, bool]:
    """CPU seconds until the first frame, and whether torch was loaded by then."""
    with tempfile.TemporaryDirectory() as folder:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.environ.update(TERM="xterm-256color", LANG="C.UTF-8")
            os.execv(sys.executable, [sys.executable, "-m", "ubq", "wizard"])
        try:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            seen, deadline = b"", time.monotonic() + timeout
            while FIRST_FRAME not in seen:
                ready, _write, _error = select.select([terminal], [], [], deadline - time.monotonic())
                if not ready:
                    raise TimeoutError("no first frame")
                seen += os.read(terminal, 65536)
            torch = "libtorch" in Path(f"/proc/{pid}/maps").read_text()
            return cpu_seconds(pid), torch
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(terminal)


def main() -> int:
    times = []
    for _repeat in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        seconds, torch = first_frame()
        times.append(seconds)
        print(f"{seconds:.2f} s{'  (torch was loaded)' if torch else ''}")
        if torch:
            return 1
    median = statistics.median(times)
    print(f"median {median:.2f} s of CPU to the first frame, wanted <= {LIMIT_S} s")
    return int(median > LIMIT_S)


if __name__ == "__main__":
    raise SystemExit(main())
