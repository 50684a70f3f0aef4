"""A process that runs the exported file and is ended from outside says nothing about the file."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ubq.data.normalization import Normalization
from ubq.errors import StageError
from ubq.stages.base import Stopped
from ubq.verify import child


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a program in the place of the probe, in its process."""
    exported = child.Exported(
        tmp_path / "m.pt", tmp_path / "f.pt", "qnnpack", 4, 8, [0.5], Normalization(-1.0, 1.0, 1500.0, 4500.0)
    )

    def run(program: str, progress: Any = None) -> dict[str, Any]:
        script = tmp_path / "probe_program.py"
        script.write_text("import os, sys, json, time\n" + program)
        monkeypatch.setattr(child, "probe", SimpleNamespace(__file__=str(script)))
        return child.run_probe(exported, tmp_path, 0, 1, 1, 1, 0, 1, progress)

    return run


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGABRT])
def test_a_signal_is_the_stages_failure_and_no_mark(probe: Any, number: signal.Signals) -> None:
    program = f"import signal; signal.signal({int(number)}, signal.SIG_DFL); os.kill(os.getpid(), {int(number)})"
    if number == signal.SIGKILL:
        program = "os.kill(os.getpid(), 9)"
    with pytest.raises(StageError) as caught:
        probe(program)
    assert "resume" in caught.value.fix
    assert isinstance(caught.value.__cause__, MemoryError) == (number == signal.SIGKILL)


@pytest.mark.parametrize(
    "said",
    ["RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", "MemoryError"],
)
@pytest.mark.parametrize("reported", [True, False])
def test_too_little_memory_is_no_mark_either(probe: Any, said: str, reported: bool) -> None:
    result = {"checks": {}, "problems": [], "error": said}
    program = f"json.dump({result!r}, open('result.json', 'w'))" if reported else f"sys.exit({said!r})"
    with pytest.raises(StageError, match="memory") as caught:
        probe(program)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_full_disk_is_no_mark(probe: Any) -> None:
    with pytest.raises(StageError, match="no room"):
        probe("sys.exit('OSError: [Errno 28] No space left on device')")


def test_what_the_file_does_wrong_is_the_marks(probe: Any) -> None:
    found = probe("sys.exit('RuntimeError: Unknown builtin op')")
    assert "Unknown builtin op" in found["error"]


def test_a_stop_ends_the_process_before_it_has_said_anything(probe: Any, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise Stopped

    with pytest.raises(Stopped):
        probe("open('pid', 'w').write(str(os.getpid())); time.sleep(600)", stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_stop_that_comes_with_the_end_of_the_process_is_a_stop(probe: Any) -> None:
    def stop(done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        probe("os.kill(os.getpid(), 9)", stop)
