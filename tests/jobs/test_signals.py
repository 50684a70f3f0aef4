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

from ubq.errors import EXIT_USAGE
from ubq.jobs.status import snapshot

HELD = toy(60)


def wait_for_row(folder: Path, process: subprocess.Popen[str], count: int = 3) -> None:
    while process.poll() is None and len(rows(folder)) < count:
        time.sleep(0.005)


def run_stages(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run the ``stages`` that a program's text makes of the toy's, in a process."""
    head = "import os, signal, sys, toy\nfrom pathlib import Path\n"
    head += "from ubq.jobs.run import start_run\nfrom ubq.stages.paths import RunPaths\n"
    tail = "sys.exit(start_run(toy.toy_config(), RunPaths(Path(sys.argv[1])), stages=stages))\n"
    path = os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))
    return subprocess.run(
        [sys.executable, "-c", head + program + tail, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda v: str(v)
)
def test_the_first_signal_saves_within_a_step(tmp_path: Path, number: signal.Signals, code: int) -> None:
    folder = tmp_path / "run"
    process = HELD.start(folder, hold="autoencoder")
    wait_for_row(folder, process)
    process.send_signal(number)
    output, _none = process.communicate()
    assert process.returncode == code
    shot = snapshot(folder)
    assert (shot.shown, shot.state.exit_code) == ("interrupted", code)
    assert shot.state.next_command == f"ubq resume run --runs-dir {tmp_path}"
    assert f"resume with: {shot.state.next_command}" in output
    last = last_steps(folder)["autoencoder"]
    assert saved_steps(folder) == {"autoencoder": last}
    assert events(folder)[-1]["event"] == "interrupted"
    HELD.finish(folder)
    resumed = [e["step"] for e in events(folder) if e["event"] == "stage_resumed"]
    assert resumed == [last]
    assert [r["step"] for r in rows(folder) if r["stage"] == "autoencoder"] == list(range(1, 61))


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    endless = Pipeline((*toy(20).command[:-1], "100000"), interval=10)  # seconds that its first step takes
    process = endless.start(folder)
    assert process.stdout is not None
    wait_for_row(folder, process, 1)
    process.send_signal(signal.SIGINT)
    while "stopping" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _none = process.communicate()
    assert process.returncode == 143
    assert "ubq resume run" in output
    check_after_kill(folder)
    toy(20).finish(folder)
    toy(20).finish(tmp_path / "alone")
    assert digest(folder) == digest(tmp_path / "alone")
    assert rows(folder) == rows(tmp_path / "alone")


def test_slurms_second_sigterm_does_not_cut_a_save_short(tmp_path: Path) -> None:
    done = run_stages(
        tmp_path / "run",
        """
os.environ["SLURM_JOB_ID"] = "1"

class SignalledWhileItSaves(toy.Autoencoder):
    def run(self, context):
        os.kill(os.getpid(), signal.SIGTERM)
        context.store.before_commit = lambda: os.kill(os.getpid(), signal.SIGTERM)
        super().run(context)

stages = [SignalledWhileItSaves()]
""",
    )
    assert done.returncode == 143, done.stderr
    assert snapshot(tmp_path / "run").shown == "interrupted"
    assert saved_steps(tmp_path / "run") == {"autoencoder": 1}


def test_a_hangup_sent_twice_by_one_lost_terminal_still_saves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = HELD.start(folder, hold="autoencoder")
    wait_for_row(folder, process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    process.communicate()
    assert process.returncode == 129
    assert snapshot(folder).shown == "interrupted"


def test_a_signal_between_stages_stops_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run_stages(
        folder,
        """
class SignalledAtItsEnd(toy.Autoencoder):
    def run(self, context):
        super().run(context)
        os.kill(os.getpid(), signal.SIGTERM)

stages = [SignalledAtItsEnd(), *toy.stages()[1:]]
""",
    )
    assert done.returncode == 143, done.stderr
    assert snapshot(folder).shown == "interrupted"
    assert [e["stage"] for e in events(folder) if e["event"] == "stage_completed"] == ["autoencoder"]
    assert last_steps(folder).keys() == {"autoencoder"}


def test_nohup_is_respected(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = HELD.start(folder, hold="autoencoder")
    finally:
        signal.signal(signal.SIGHUP, previous)
    wait_for_row(folder, process)
    process.send_signal(signal.SIGHUP)
    (folder / "go").touch()
    process.communicate()
    assert process.returncode == 0


def test_a_terminal_that_goes_away_does_not_hurt(tmp_path: Path) -> None:
    """Output to a closed pipe is dropped; the run goes on."""
    folder = tmp_path / "run"
    process = toy(60).start(folder)
    assert process.stdout is not None
    os.close(process.stdout.fileno())
    process.stdout = None
    assert process.wait() == 0
    assert snapshot(folder).shown == "completed"


@pytest.mark.parametrize("device", ["pipe", "full", "closed"])
def test_a_failure_is_written_down_where_nobody_reads_it(tmp_path: Path, device: str) -> None:
    """A reader that left (``ubq run 2>&1 | head``), or a lost terminal, costs neither the reason nor the exit code."""
    command = [sys.executable, "-m", "ubq", "run", "--preset", "smoke", "--until", "prepare", "--no-preflight"]
    command += ["--train-data", "nowhere", "--train-label", "nowhere"]
    redirect = {"pipe": "", "full": " >/dev/full 2>&1", "closed": " >&- 2>&-"}[device]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    try:
        shell = ["bash", "-c", f'exec "$@"{redirect}', "bash", *command]
        done = subprocess.run(shell, cwd=tmp_path, env=environment, stdout=writing, stderr=writing)
    finally:
        os.close(writing)
    assert done.returncode == EXIT_USAGE
    shot = snapshot(tmp_path / "runs/smoke")
    assert (shot.shown, shot.state.exit_code) == ("failed", EXIT_USAGE)
    assert shot.state.error is not None
    assert "nowhere does not exist" in shot.state.error["message"]
    assert "nowhere does not exist" in (tmp_path / "runs/smoke/run.log").read_text()


def test_a_stage_that_breaks_on_the_way_out_was_interrupted(tmp_path: Path) -> None:
    """Ctrl-C kills a stage's worker processes as well; their end is no failure of the stage."""
    done = run_stages(
        tmp_path / "run",
        """
class Breaks(toy.Autoencoder):
    def run(self, context):
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("a worker died")

stages = [Breaks()]
""",
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "a worker died" in (tmp_path / "run" / "run.log").read_text()
    assert snapshot(tmp_path / "run").shown == "interrupted"
