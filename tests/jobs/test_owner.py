"""Who holds a run: one process at a time, and never a dead one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill import toy

from ubq.errors import EXIT_HELD, HeldError, UsageError
from ubq.jobs.owner import LOCK, OWNER, SILENT_S, Hold, alive, on_network, read_owner, start_token, this_process

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


def test_an_owner_on_another_host_lives_by_its_heartbeat(tmp_path: Path) -> None:
    other = dataclasses.replace(this_process(), host="elsewhere")
    path = tmp_path / OWNER
    path.write_text(json.dumps(dataclasses.asdict(other)))
    assert alive(other, tmp_path)
    old = time.time() - SILENT_S - 1
    os.utime(path, (old, old))
    assert not alive(other, tmp_path)


def test_a_soft_lock_of_a_silent_host_is_taken_over(tmp_path: Path) -> None:
    other = dataclasses.replace(this_process(), host="elsewhere")
    (tmp_path / LOCK).write_text("12345\nelsewhere\n")
    (tmp_path / OWNER).write_text(json.dumps(dataclasses.asdict(other)))
    with pytest.raises(HeldError, match="elsewhere"), Hold(tmp_path, network=True):
        pass
    old = time.time() - SILENT_S - 1
    os.utime(tmp_path / LOCK, (old, old))
    os.utime(tmp_path / OWNER, (old, old))
    with Hold(tmp_path, network=True):
        pass


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
