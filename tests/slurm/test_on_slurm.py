"""Runs as jobs of a real Slurm on this machine: preempted, out of time, stopped, in parts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ubq.data.synthetic import write_synthetic
from ubq.durable import read_rows
from ubq.jobs.status import snapshot
from ubq.slurm.queue import Job, look_up

REPOSITORY = Path(__file__).parents[2]
TOY = REPOSITORY / "tests" / "cli" / "toy_pipeline"
PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel", "slurmctld", "slurmd", "munged")
VALUES = ("run.checkpoint_steps=10", "threads=1", "train.autoencoder.steps=40", "train.diffusion.steps=40")
PRESET = ("--preset", "smoke", "--no-preflight", *(word for value in VALUES for word in ("--set", value)))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Path]:
    """The configuration of a cluster of this machine alone, with the partitions ``low`` and ``high``."""
    script = shared / "slurm" / "slurm.sh"
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing or not script.is_file():
        pytest.skip(f"needs {script} and Debian's slurm-wlm and munge; missing: {', '.join(missing) or script}")
    if os.geteuid() != 0:
        pytest.skip("its daemons run as root")
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # nproc would print it
    began = subprocess.run(
        [script, "start", folder],
        env={**environment, "SLURM_TEST_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        if began.returncode:
            pytest.skip(f"Slurm does not start here: {began.stdout.strip().splitlines()[-1:]}")
        yield folder / "slurm.conf"
    finally:
        subprocess.run([script, "stop", folder], check=False)


class Desk:
    """A user in a working folder, whose stage ``hold`` waits until the run has a file ``go``."""

    def __init__(self, folder: Path, hold: str = "autoencoder") -> None:
        self.folder = folder
        self.run = folder / "runs" / "job"
        path = os.pathsep.join((str(TOY), str(REPOSITORY)))
        kept = {k: v for k, v in os.environ.items() if not k.startswith("UBQ_")}
        self.environment = {**kept, "PYTHONPATH": path, "TOY_HOLD": hold, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}

    def ubq(self, *arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ubq", *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**self.environment, **more},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *arguments: str) -> str:
        return json.loads(self.ubq("submit", "--json", *arguments))["job"]

    def status(self) -> dict[str, Any]:
        return json.loads(self.ubq("status", "job", "--json"))

    def wait_until_held(self) -> None:
        """Until the run's first stage waits, past its first checkpoint."""
        while not any(row["step"] == 12 for row in read_rows(self.run / "metrics.jsonl")):
            time.sleep(0.2)

    def wait(self, job: str, condition: Callable[[Job], bool]) -> Job:
        """A job once it is as wanted; pytest's own limit ends a wait in vain."""
        while not condition(found := look_up(job)):
            time.sleep(0.3)
        return found

    def check_as_undisturbed(self) -> None:
        """What the run made is what it makes where nothing happens to it."""
        undisturbed = self.folder / "alone"
        self.ubq("run", *PRESET, "--run", "alone", "--runs-dir", str(undisturbed), TOY_HOLD="")
        for file in ("exported_models/manifest.json", "metrics.jsonl"):
            assert (self.run / file).read_bytes() == (undisturbed / "alone" / file).read_bytes()

    @property
    def log(self) -> str:
        return "".join(f.read_text() for f in self.run.glob("slurm-*.out"))


@pytest.fixture
def desk(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("SLURM_CONF", str(cluster))
    yield Desk(tmp_path)
    slurm("scontrol", "update", "NodeName=ALL", "State=RESUME")  # where a test ended with a lost node
    slurm("scancel", "--user=root", "--full", "--signal=KILL")
    slurm("scancel", "--user=root")
    while slurm("squeue", "--noheader"):
        time.sleep(0.3)


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def end_as_with_their_machine() -> None:
    """Every process of every job ends without a word: none saves, and none tells of the end of another.

    A node that is only set down still runs its jobs, and Slurm asks them to end, which saves.
    """
    daemons = [process for process in psutil.process_iter() if process.name() == "slurmstepd"]
    lost = [*daemons, *(child for daemon in daemons for child in daemon.children(recursive=True))]
    for process in lost:
        process.suspend()
    for process in lost:
        process.kill()
    psutil.wait_procs(lost)


def waits(job: Job) -> bool:
    return job.state == "PENDING"


def gone(job: Job) -> bool:
    return not job.queued


def test_a_preempted_run_ends_as_if_nothing_had_happened(desk: Desk) -> None:
    job = desk.submit("job", *PRESET, "--nproc", "2", "--partition", "low")
    desk.wait_until_held()
    shot = desk.status()
    assert (shot["state"], shot["slurm"]["id"], shot["slurm"]["state"]) == ("running", job, "RUNNING")
    assert shot["slurm"]["nodes"]
    assert [p["rank"] for p in shot["processes"]] == [0, 1]
    cores = str(os.cpu_count())
    slurm("sbatch", "--partition=high", f"--ntasks={cores}", "--output=/dev/null", "--wrap=sleep 1")
    desk.wait(job, waits)
    shot = desk.status()
    assert (shot["state"], shot["next_command"], shot["slurm"]["queued"]) == ("interrupted", "", True)
    assert shot["stages"][0]["last_checkpoint"] == 12, desk.log
    (desk.run / "go").touch()
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm would hold it for two minutes
    assert desk.wait(job, gone).state == "COMPLETED", desk.log
    assert desk.status()["stages"][0]["resumed_from"] == 12
    desk.check_as_undisturbed()


def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(desk: Desk) -> None:
    job = desk.submit("job", *PRESET)
    desk.wait_until_held()
    node = desk.status()["slurm"]["nodes"]
    end_as_with_their_machine()
    slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
    desk.wait(job, waits)
    shot = desk.status()
    assert (shot["slurm"]["queued"], shot["stages"][0]["last_checkpoint"]) == (True, 10)
    (desk.run / "go").touch()
    slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert desk.wait(job, gone).state == "COMPLETED", desk.log
    assert desk.status()["stages"][0]["resumed_from"] == 10
    desk.check_as_undisturbed()


def test_a_run_out_of_time_is_saved_and_queued_again_until_it_is_stopped(desk: Desk) -> None:
    job = desk.submit("job", *PRESET, "--time", "1")
    desk.wait_until_held()
    desk.wait(job, lambda found: waits(found) and found.reason == "BeginTime")
    assert snapshot(desk.run).shown == "interrupted"
    assert snapshot(desk.run).state.stages[0].last_checkpoint == 12
    desk.ubq("stop")
    assert look_up(job).state == "CANCELLED"
    assert "next: ubq submit job" in desk.ubq("status")


def test_stop_saves_and_the_job_is_not_queued_again(desk: Desk) -> None:
    job = desk.submit("job", *PRESET)
    desk.wait_until_held()
    assert "job: interrupted" in desk.ubq("stop")
    assert not look_up(job).queued
    assert snapshot(desk.run).state.stages[0].last_checkpoint == 12
    (desk.run / "go").touch()
    again = desk.submit("job")
    assert desk.wait(again, gone).state == "COMPLETED", desk.log
    assert snapshot(desk.run).shown == "completed"


def test_scancel_saves_and_the_job_is_not_queued_again(desk: Desk) -> None:
    job = desk.submit("job", *PRESET)
    desk.wait_until_held()
    slurm("scancel", job)
    assert desk.wait(job, gone).state == "CANCELLED"
    assert snapshot(desk.run).shown == "interrupted", desk.log
    assert snapshot(desk.run).state.stages[0].last_checkpoint == 12


def test_the_tasks_of_an_array_do_the_whole(desk: Desk) -> None:
    pytest.importorskip("deepwave", reason="forward modelling needs the physics extra")
    maps = desk.folder / "maps"
    write_synthetic("flatvel-a", 1, 1, 0, maps)
    forward = ("data", "forward", "--velocity", "maps", "--out")
    job = desk.submit("--array", "2", "--", *forward, "parts")
    while slurm("squeue", "--noheader", f"--jobs={job}"):
        time.sleep(0.3)
    desk.ubq(*forward, "whole")
    names = {f.name for f in (desk.folder / "whole").iterdir() if f.suffix in (".npy", ".json")}
    assert len(names) == 3
    for name in names:
        assert (desk.folder / "parts" / name).read_bytes() == (desk.folder / "whole" / name).read_bytes()
