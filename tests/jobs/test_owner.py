"""Who holds a run: one process at a time, and never a dead one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kill import toy

from ubq.errors import EXIT_HELD, HeldError, UsageError
from ubq.jobs.detach import stop_run
from ubq.jobs.owner import (
    LOCK,
    OWNER,
    Hold,
    LostHoldError,
    Owner,
    alive,
    on_network,
    read_owner,
    settle,
    start_token,
    this_process,
)

HOLDER = """
import sys, time
from pathlib import Path
from ubq.jobs.owner import Hold
with Hold(Path(sys.argv[1]), network=sys.argv[2] == "soft"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(run: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run), kind], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["kernel", "soft"])
def test_a_second_process_is_told_who_holds_it_and_a_dead_one_never_blocks(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "demo"
    process = holder(run, kind)
    try:
        owner = read_owner(run)
        assert owner is not None
        assert owner.pid == process.pid
        assert alive(owner, run)
        with pytest.raises(HeldError) as caught, Hold(run, network=kind == "soft"):
            pass
        assert caught.value.exit_code == EXIT_HELD
        assert f"process {process.pid} on {owner.host} since {owner.since}" in caught.value.message
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert not alive(owner, run)
    with Hold(run, network=kind == "soft"):
        owner = read_owner(run)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert not (run / OWNER).exists()


def test_a_zombie_is_not_alive(tmp_path: Path) -> None:
    process = holder(tmp_path / "demo", "kernel")
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and still has its entry
    assert start_token(process.pid) is None
    process.communicate()


def test_another_process_with_the_same_id_is_not_the_owner(tmp_path: Path) -> None:
    me = this_process()
    assert alive(me, tmp_path)
    assert not alive(dataclasses.replace(me, start="1"), tmp_path)
    assert not alive(dataclasses.replace(me, boot="another boot"), tmp_path)


class Clock:
    """This process's clocks as a test sets them: sleeping takes no time, and every sleep may do something."""

    def __init__(self) -> None:
        self.now, self.ahead = 1000.0, 0.0
        self.during_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("ubq.jobs.owner.time", clock)
    return clock


def elsewhere(run: Path, **changes: str) -> Owner:
    """A holder that this process cannot look up: on another host unless said otherwise."""
    owner = dataclasses.replace(this_process(), **{"host": "elsewhere", **changes})
    (run / LOCK).write_text(owner.token)
    (run / OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def beat(run: Path, ahead: float = 0.0) -> None:
    """A heartbeat by the clock of a file server that is so many seconds ahead."""
    moment = time.time_ns() + round(ahead * 1e9)
    os.utime(run / OWNER, ns=(moment, moment))


@pytest.mark.parametrize("ahead", [-400.0, 0.0, 400.0])
@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"host": socket.gethostname(), "namespace": "pid:[1]"}])
def test_a_heartbeat_is_judged_by_its_changes_whatever_the_clocks_say(
    tmp_path: Path, clock: Clock, ahead: float, changes: dict[str, str]
) -> None:
    owner = elsewhere(tmp_path, **changes)
    clock.during_sleep = lambda: beat(tmp_path, ahead)
    beat(tmp_path, ahead)
    with pytest.raises(HeldError, match="process"), Hold(tmp_path, network=True):
        pass
    assert alive(owner, tmp_path)
    clock.during_sleep = lambda: None  # it dies
    clock.ahead = 1000.0  # and what it left is not recent by this machine's clock
    settle([tmp_path])
    assert not alive(owner, tmp_path)
    with Hold(tmp_path, network=True):
        assert read_owner(tmp_path).pid == os.getpid()  # type: ignore[union-attr]


def test_a_copy_of_a_running_run_is_not_running(tmp_path: Path) -> None:
    process = holder(tmp_path / "demo", "kernel")
    try:
        shutil.copytree(tmp_path / "demo", tmp_path / "copy")
        owner = read_owner(tmp_path / "copy")
        assert owner is not None
        assert not alive(owner, tmp_path / "copy")
        assert not stop_run(tmp_path / "copy")
        with Hold(tmp_path / "copy"):
            pass
        os.rename(tmp_path / "demo", tmp_path / "renamed")
        assert alive(owner, tmp_path / "renamed")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("network", [False, True])
def test_a_holder_that_slept_writes_nothing_once_another_has_taken_over(tmp_path: Path, network: bool) -> None:
    with Hold(tmp_path, network=network) as slept:
        slept.check()
        new = elsewhere(tmp_path)
        with pytest.raises(LostHoldError, match="elsewhere"):
            slept.check()
        (tmp_path / OWNER).write_text(json.dumps(dataclasses.asdict(slept.owner)))
        with pytest.raises(LostHoldError):  # lost is lost
            slept.check()
        elsewhere(tmp_path)
    assert read_owner(tmp_path) is not None
    assert (tmp_path / LOCK).exists()
    assert new.token != slept.owner.token


def test_a_removed_owner_file_is_written_again_while_the_lock_is_held(tmp_path: Path) -> None:
    with Hold(tmp_path, network=False) as hold:
        (tmp_path / OWNER).unlink()
        hold.check()
        assert read_owner(tmp_path) == hold.owner


def test_a_forked_child_that_outlives_its_parent_does_not_hold_the_run(tmp_path: Path) -> None:
    program = """
import os, sys, time
from pathlib import Path
from ubq.jobs.owner import Hold
Hold(Path(sys.argv[1])).__enter__()
child = os.fork()
if child == 0:
    os.close(1); os.close(2)
    time.sleep(600)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    child = int(done.stdout)
    try:
        assert start_token(child) is not None
        with Hold(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written"), Hold(tmp_path / "demo"):
        pass


def test_a_file_in_the_place_of_the_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="cannot be written"), Hold(tmp_path / "runs" / "demo"):
        pass


def test_local_disks_are_not_network_file_systems(tmp_path: Path) -> None:
    assert not on_network(tmp_path)


def test_of_eight_at_once_one_runs(tmp_path: Path) -> None:
    processes = [toy(20).start(tmp_path / "run", hold="autoencoder") for _i in range(8)]
    while sum(p.poll() is None for p in processes) > 1:
        time.sleep(0.01)
    (tmp_path / "run" / "go").touch()
    outputs = [p.communicate()[0] for p in processes]
    codes = sorted(p.returncode for p in processes)
    assert codes == [0] + [EXIT_HELD] * 7, outputs
    winner = next(p for p in processes if p.returncode == 0)
    # The winner writes its name after it has the lock, which may take it longer than the others wait for it.
    told = (f"held by process {winner.pid} on", "held by another process")
    assert all(any(t in o for t in told) for o, p in zip(outputs, processes, strict=True) if p.returncode)
