"""``ubq submit`` up to Slurm's own commands: the batch script, what a user is told, what the queue says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ubq.cli import main
from ubq.errors import EXIT_HELD, EXIT_OK, EXIT_USAGE, UsageError
from ubq.jobs.ranks import launch
from ubq.jobs.state import RunState, StageState, write_state
from ubq.slurm.batch import batch_script
from ubq.slurm.record import Record, read_record, write_record
from ubq.slurm.request import Request, parse_options, seconds

SMOKE = ("--preset", "smoke", "--device", "cpu")


def no_slurm(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A machine without any command of Slurm."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(folder))


def slurm(monkeypatch: pytest.MonkeyPatch, folder: Path, **commands: str) -> None:
    """Commands of Slurm that are these lines of shell; each call is noted in ``calls``."""
    monkeypatch.chdir(folder)
    programs = folder / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/calls\n{commands.get(name, "")}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")


def directives(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH ")]
    return {key: value for key, _equals, value in (line.partition("=") for line in lines)}


def test_the_script_asks_for_what_was_asked(tmp_path: Path, monkeypatch, capsys) -> None:
    no_slurm(monkeypatch, tmp_path)
    options = [
        "--nodes",
        "2",
        "--gpus-per-node",
        "4",
        "--cpus-per-task",
        "8",
        "--time",
        "24:00:00",
        "--partition",
        "gpu",
        "--account",
        "ab12",
    ]
    more = ("--sbatch", "constraint=a100", "--sbatch", "exclusive", "--sbatch", "signal=TERM@600")
    assert main(["submit", "big", *SMOKE, *options, *more, "--print"]) == EXIT_OK
    text = capsys.readouterr().out
    run = tmp_path / "runs" / "big"
    assert directives(text) == {
        "job-name": "big",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "8",
        "time": "24:00:00",
        "partition": "gpu",
        "account": "ab12",
        "chdir": str(tmp_path),
        "output": f"{run}/slurm-%j.out",
        "open-mode": "append",
        "signal": "TERM@600",
        "requeue": "",
        "constraint": "a100",
        "exclusive": "",
    }
    assert f"srun --kill-on-bad-exit=0 --cpus-per-task=8 {sys.executable} -m ubq resume {run} &" in text
    assert (run / "slurm.sh").read_text() == text
    assert subprocess.run(["/bin/bash", "-n", run / "slurm.sh"], check=False).returncode == 0
    config = (run / "config.toml").read_text()
    assert "nproc = 4" in config
    assert "threads = 32" in config, "those of a node, which its four processes share"


def test_what_the_cluster_decides_is_left_to_it(tmp_path: Path, monkeypatch, capsys) -> None:
    no_slurm(monkeypatch, tmp_path)
    assert main(["submit", *SMOKE, "--nproc", "2", "--print"]) == EXIT_OK
    asked = directives(capsys.readouterr().out)
    assert asked["ntasks-per-node"] == "2"
    assert not {"gpus-per-node", "cpus-per-task", "time", "partition", "account"} & asked.keys()
    assert "threads = 0" in (tmp_path / "runs/smoke/config.toml").read_text()


def test_a_submitted_run_is_pending_and_nobody_misses_its_process(tmp_path: Path, monkeypatch, capsys) -> None:
    no_slurm(monkeypatch, tmp_path)
    assert main(["submit", *SMOKE, "--print"]) == EXIT_OK
    capsys.readouterr()
    assert main(["status", "--json"]) == EXIT_OK
    shot = json.loads(capsys.readouterr().out)
    assert (shot["state"], shot["preset"], shot["slurm"]) == ("pending", "smoke", None)
    assert shot["next_command"] == "ubq resume smoke"


def test_a_command_in_parts_is_an_array(tmp_path: Path, monkeypatch, capsys) -> None:
    no_slurm(monkeypatch, tmp_path)
    words = ("sample", "runs/demo", "--count", "2000", "--out", "my pairs")
    assert main(["submit", "--array", "4", "--time", "60", "--print", "--", *words]) == EXIT_OK
    text = capsys.readouterr().out
    folder = tmp_path / "runs" / "slurm"
    asked = directives(text)
    assert (asked["array"], asked["output"]) == ("1-4", f"{folder}/sample-%A_%a.out")
    assert "-m ubq sample runs/demo --count 2000 --out 'my pairs' --shard \"$SLURM_ARRAY_TASK_ID/4\" &" in text
    assert (folder / "sample.sh").read_text() == text


def test_without_slurm_the_way_on_is_named_and_nothing_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    no_slurm(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["ubq", "submit", "--preset", "smoke"])
    assert main(["submit", "--preset", "smoke"]) == EXIT_USAGE
    error, fix = capsys.readouterr().err.splitlines()
    assert "there is no sbatch here" in error
    assert fix.endswith("ubq submit --print --preset smoke")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--preset", "smok"), "smoke"),
        ((*SMOKE, "--time", "tomorrow"), "tomorrow is no time limit"),
        ((*SMOKE, "--sbatch", "a b=1"), "no long option of sbatch"),
        ((*SMOKE, "--nodes", "0"), "--nodes"),
        ((*SMOKE, "--nproc", "2", "--gpus-per-node", "4"), "each GPU has one process"),
        (("nothing",), "there is no run"),
        (("--array", "2", "--", "bench", "sample"), "is not done in parts"),
        (("--", "data", "forward", "--velocity", "a", "--out", "b"), "ubq submit --array 8 -- data forward"),
        (("--array", "2", "--", "data", "forward", "--velocty", "a", "--out", "b"), "--velocty"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    no_slurm(monkeypatch, tmp_path)
    assert main(["submit", "--print", *arguments]) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert len(said.err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_what_sbatch_refuses_leaves_no_run(tmp_path: Path, monkeypatch, capsys) -> None:
    slurm(monkeypatch, tmp_path, sbatch='echo "sbatch: error: invalid partition specified: foo" >&2; exit 1')
    assert main(["submit", *SMOKE, "--partition", "foo"]) == EXIT_USAGE
    assert "sbatch: invalid partition specified: foo" in capsys.readouterr().err
    assert not (tmp_path / "runs/smoke").exists()


def test_a_queued_run_is_not_submitted_twice(tmp_path: Path, monkeypatch, capsys) -> None:
    slurm(monkeypatch, tmp_path, sbatch="echo 12", squeue="echo 'PENDING|Priority||gpu'")
    assert main(["submit", *SMOKE, "--nodes", "2", "--time", "60"]) == EXIT_OK
    assert "12" in capsys.readouterr().out
    assert main(["submit", *SMOKE]) == EXIT_HELD
    said = capsys.readouterr().err
    assert "in Slurm's queue, as job 12" in said
    assert "ubq stop smoke" in said


def test_status_and_stop_of_a_pending_job(tmp_path: Path, monkeypatch, capsys) -> None:
    gone = f"{tmp_path}/gone"
    queue = f"[ -e {gone} ] && echo 'CANCELLED|None||gpu' || echo 'PENDING|Priority||gpu'"
    slurm(monkeypatch, tmp_path, sbatch="echo '12;cluster'", squeue=queue, scancel=f"touch {gone}")
    assert main(["submit", *SMOKE]) == EXIT_OK
    capsys.readouterr()
    assert main(["status", "--json"]) == EXIT_OK
    shot = json.loads(capsys.readouterr().out)
    assert (shot["state"], shot["next_command"]) == ("pending", "")
    job = shot["slurm"]
    assert (job["id"], job["state"], job["reason"], job["partition"]) == ("12", "PENDING", "Priority", "gpu")
    assert job["queued"] is True
    assert main(["status"]) == EXIT_OK
    assert "job 12 of Slurm: PENDING (Priority), partition gpu" in capsys.readouterr().out
    assert main(["stop"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "job 12 of Slurm: CANCELLED" in said
    assert "next: ubq submit smoke" in said
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.index("scontrol update JobId=12 Requeue=0") < calls.index("scancel 12")


def test_the_next_job_asks_for_what_the_last_one_did(tmp_path: Path, monkeypatch, capsys) -> None:
    slurm(monkeypatch, tmp_path, sbatch="echo 12", squeue="echo 'TIMEOUT|TimeLimit|n1|gpu'")
    assert main(["submit", *SMOKE, "--nodes", "2", "--time", "60", "--sbatch", "qos=long"]) == EXIT_OK
    assert main(["submit", "smoke", "--time", "30"]) == EXIT_OK
    record = read_record(tmp_path / "runs/smoke")
    assert record is not None
    assert record.request == Request(nodes=2, time="30", more={"qos": "long"})


def test_an_interrupted_job_is_queued_by_itself(tmp_path: Path, monkeypatch, capsys) -> None:
    slurm(monkeypatch, tmp_path, squeue="echo 'PENDING|BeginTime||gpu'")
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    state = RunState("a", state="interrupted", created="2026-01-01T00:00:00Z", next_command="ubq resume a")
    state.stages = [StageState("fit", "interrupted", 3, 9)]
    write_state(run / "state.json", state)
    write_record(run, Record("12"))
    assert main(["status", "a"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "PENDING (BeginTime)" in said
    assert "resume" not in said


def test_values_with_spaces_and_percent_signs_stay_whole(tmp_path: Path) -> None:
    asked = directives(
        batch_script(Request(more={"comment": 'a "b" c'}), "my run", ["true"], tmp_path / "50%" / "%j.out")
    )
    assert asked["job-name"] == '"my run"'
    assert asked["comment"] == '"a \\"b\\" c"'
    assert asked["output"].endswith("/50%%/%j.out")
    with pytest.raises(UsageError, match="cannot stand in a batch script"):
        batch_script(Request(), "a\nb", ["true"], tmp_path / "%j.out")


@pytest.mark.parametrize(
    ("time", "length"),
    [("", 0), ("9", 540), ("1:30", 90), ("24:00:00", 86400), ("1-0", 86400), ("2-12:30", 217800), ("1-0:0:9", 86409)],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(time: str, length: int) -> None:
    assert seconds(time) == length


def test_a_short_job_is_warned_in_time() -> None:
    assert Request(time="1").warning == 30
    assert Request(time="24:00:00").warning == 180


def test_other_options_of_sbatch_with_and_without_a_value() -> None:
    assert parse_options(["mem=64G", "--exclusive", "dependency=afterok:1=2"]) == {
        "mem": "64G", "exclusive": "", "dependency": "afterok:1=2",
    }  # fmt: skip


def test_slurms_second_sigterm_goes_past_a_group_that_saves(tmp_path: Path, monkeypatch) -> None:
    """``srun ubq run --nproc 2``: the launcher must not end torchrun while its processes save."""
    program = (
        "import os, signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "for _ in range(2): os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.3)\n"
        "sys.exit(child.wait() != -signal.SIGTERM)\n"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert launch([sys.executable, "-c", program], tmp_path) == EXIT_OK
