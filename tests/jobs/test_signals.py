"""Stop signals: the first saves, the second leaves at once; either way the run can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill import REPOSITORY, Pipeline, check_after_kill, digest, events, last_steps, rows, saved_steps, toy

from ubq.jobs.status import snapshot

SLOW = Pipeline((*toy(60).command[:-1], "0.02"), interval=10)


def wait_for_row(folder: Path, process: subprocess.Popen[str], count: int = 3) -> None:
    while process.poll() is None and len(rows(folder)) < count:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda v: str(v)
)
def test_the_first_signal_saves_within_a_step(tmp_path: Path, number: signal.Signals, code: int) -> None:
    folder = tmp_path / "run"
    process = SLOW.start(folder)
    wait_for_row(folder, process)
    process.send_signal(number)
    output, _none = process.communicate(timeout=30)
    assert process.returncode == code
    shot = snapshot(folder)
    assert (shot.shown, shot.state.exit_code) == ("interrupted", code)
    assert shot.state.next_command == f"ubq resume run --runs-dir {tmp_path}"
    assert f"resume with: {shot.state.next_command}" in output
    last = last_steps(folder)["autoencoder"]
    assert saved_steps(folder) == {"autoencoder": last}
    assert events(folder)[-1]["event"] == "interrupted"
    SLOW.finish(folder)
    resumed = [e["step"] for e in events(folder) if e["event"] == "stage_resumed"]
    assert resumed == [last]
    assert [r["step"] for r in rows(folder) if r["stage"] == "autoencoder"] == list(range(1, 61))


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    slow = Pipeline((*toy(20).command[:-1], "1.0"), interval=10)
    process = slow.start(folder)
    wait_for_row(folder, process, 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _none = process.communicate(timeout=30)
    assert time.monotonic() - begin < 0.9
    assert process.returncode == 143
    assert "ubq resume run" in output
    check_after_kill(folder)
    toy(20).finish(folder)
    toy(20).finish(tmp_path / "alone")
    assert digest(folder) == digest(tmp_path / "alone")
    assert rows(folder) == rows(tmp_path / "alone")


def test_a_hangup_sent_twice_by_one_lost_terminal_still_saves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = SLOW.start(folder)
    wait_for_row(folder, process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 129
    assert snapshot(folder).shown == "interrupted"


def test_a_signal_between_stages_stops_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = toy(100).start(folder)
    while process.poll() is None and not any(e["event"] == "stage_completed" for e in events(folder)):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert snapshot(folder).shown == "interrupted"


def test_nohup_is_respected(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = toy(60).start(folder)
    finally:
        signal.signal(signal.SIGHUP, previous)
    wait_for_row(folder, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_terminal_that_goes_away_does_not_hurt(tmp_path: Path) -> None:
    """Output to a closed pipe is dropped; the run goes on."""
    folder = tmp_path / "run"
    process = toy(60).start(folder)
    assert process.stdout is not None
    os.close(process.stdout.fileno())
    process.stdout = None
    assert process.wait(timeout=30) == 0
    assert snapshot(folder).shown == "completed"


def test_a_stage_that_breaks_on_the_way_out_was_interrupted(tmp_path: Path) -> None:
    """Ctrl-C kills a stage's worker processes as well; their end is no failure of the stage."""
    program = """
import os, signal, sys
import toy
from pathlib import Path
from ubq.jobs.run import start_run
from ubq.stages.paths import RunPaths

class Breaks(toy.Autoencoder):
    def run(self, context):
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("a worker died")

sys.exit(start_run(toy.toy_config(), RunPaths(Path(sys.argv[1])), stages=[Breaks()]))
"""
    path = os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "a worker died" in (tmp_path / "run" / "run.log").read_text()
    assert snapshot(tmp_path / "run").shown == "interrupted"
