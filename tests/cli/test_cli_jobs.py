"""The commands that start, show and stop jobs, as a user types them; the pipeline is the toy of tests/jobs."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy_pipeline"
PRESET = ("--preset", "smoke", "--no-preflight", "--set", "run.checkpoint_steps=10", "--set", "threads=1")
STEPS = ("--set", "train.autoencoder.steps=40", "--set", "train.diffusion.steps=40")


def environment(hold: str = "") -> dict[str, str]:
    """Of a process with the toy pipeline, whose stage ``hold`` waits (``tests/jobs/toy.py``)."""
    path = os.pathsep.join((str(TOY), str(REPOSITORY)))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("UBQ_")}
    return {**kept, "PYTHONPATH": path, "TOY_HOLD": hold, "COLUMNS": "100", "LANG": "C.UTF-8"}


def ubq(folder: Path, *arguments: str, hold: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ubq", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(hold),
    )


def status(folder: Path, *arguments: str) -> dict[str, Any]:
    done = ubq(folder, "status", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(folder: Path, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The run's status once it is as wanted; pytest's own limit ends a wait in vain."""
    while not (folder / "runs/job/state.json").exists():
        time.sleep(0.05)
    while not condition(shot := status(folder)):
        time.sleep(0.1)
    return shot


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command that goes on, once it has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ubq", *arguments], stdout=subprocess.PIPE, text=True, cwd=folder, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def in_a_terminal(folder: Path, *arguments: str, hold: str) -> tuple[int, int]:
    """A command in a pseudo-terminal of its own: process and terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        command = [sys.executable, "-m", "ubq", *arguments]
        os.execve(sys.executable, command, {**environment(hold), "TERM": "xterm-256color"})
    return pid, terminal


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[Path]:
    """A job in the background that waits in its first stage."""
    command = ("run", *PRESET, *STEPS, "--epochs", "40", "--run", "job", "--detach")
    done = ubq(tmp_path, *command, hold="autoencoder")
    assert done.returncode == 0, done.stderr
    assert "job" in done.stdout.splitlines()
    yield tmp_path
    ubq(tmp_path, "stop", "--now")


def test_run_status_runs_and_logs(tmp_path: Path) -> None:
    done = ubq(tmp_path, "run", *PRESET, *STEPS, "--epochs", "7", "--run", "first")
    assert done.returncode == 0, done.stderr
    shot = status(tmp_path)
    assert (shot["run"], shot["state"], shot["owner"], shot["next_command"]) == ("first", "completed", None, "")
    assert {"schema_version", "stages", "artifacts"} <= shot.keys()
    assert [(s["name"], s["step"], s["steps"], s["percent"]) for s in shot["stages"]] == [
        ("autoencoder", 40, 40, 100.0),
        ("diffusion", 40, 40, 100.0),
        ("qat", 7, 7, 100.0),
        ("export", 0, 0, 100.0),
    ]
    assert "completed" in ubq(tmp_path, "status", "first").stdout
    listed = json.loads(ubq(tmp_path, "runs", "--json").stdout)["runs"]
    assert [(r["run"], r["state"], r["preset"]) for r in listed] == [("first", "completed", "smoke")]
    log = ubq(tmp_path, "logs").stdout
    assert "qat: complete" in log
    assert "qat: complete" in done.stdout


def test_the_same_command_again_and_a_dry_run(tmp_path: Path) -> None:
    command = ("run", *PRESET, *STEPS, "--run", "r")
    assert ubq(tmp_path, *command, "--epochs", "7").returncode == 0
    again = ubq(tmp_path, *command, "--epochs", "7")
    assert again.returncode == 0
    assert "up to date" in again.stdout
    dry = ubq(tmp_path, *command, "--epochs", "3", "--dry-run")
    assert dry.returncode == 0
    lines = [line.split(maxsplit=1) for line in dry.stdout.splitlines()]
    assert lines[0] == ["autoencoder", "up to date"]
    assert lines[2] == ["qat", "run  (qat.epochs 7 -> 3)"]
    assert re.fullmatch(r"\s+does \d+ s of work over", dry.stdout.splitlines()[3])
    as_json = json.loads(ubq(tmp_path, *command, "--epochs", "3", "--dry-run", "--json").stdout)
    seconds = as_json["stages"][2].pop("discards_seconds")
    assert as_json["stages"][2] == {
        "name": "qat",
        "action": "run",
        "step": 0,
        "reasons": ["qat.epochs 7 -> 3"],
    }
    assert seconds >= 0
    log_only = ubq(tmp_path, *command, "--epochs", "7", "--set", "run.log_every=3", "--dry-run")
    assert [line.split(maxsplit=1)[1] for line in log_only.stdout.splitlines()] == ["up to date"] * 4


def test_named_options_set_their_keys(tmp_path: Path) -> None:
    options = (
        "--dataset flatvel-a --epochs 5 --batch-size 4 --lr 0.001 --decoder-batch-size 2 --backend x86 "
        "--no-convert-conv1d --no-use-aggressive-quantization --no-quantize-seismic --device cpu "
        "--pretrained-path a.pt --decoder-checkpoint b.pt --force-quantization --test-generation"
    )
    stopped = ubq(tmp_path, "run", *PRESET, *STEPS, *options.split(), "--until", "autoencoder")
    assert stopped.returncode == 0, stopped.stderr
    config = tomllib.loads((tmp_path / "runs/smoke/config.toml").read_text())
    assert config["data"]["family"] == "flatvel-a"
    assert (config["qat"]["epochs"], config["qat"]["lr"]) == (5, 0.001)
    assert config["qat"]["decoders"]["batch_size"] == 2
    assert config["qat"]["diffusion"]["batch_size"] == 4
    assert config["device"] == "cpu"
    assert config["pretrained"] == config["pretrained"] | {
        "path": str(tmp_path / "a.pt"),
        "decoder_path": str(tmp_path / "b.pt"),
    }
    expected = {"backend": "x86", "convert_conv1d": False, "scheme": "default", "velocity": True, "seismic": False}
    assert config["quant"] == config["quant"] | expected | {"keep_float": [], "max_quality_loss": 0.0}
    assert status(tmp_path)["state"] == "partial"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--preset", "smok"), "smoke"),
        (("run", *PRESET, "--only", "exprot"), "did you mean export"),
        (("run", *PRESET, "--dataset", "flatvel"), "flatvel-a"),
        (("run", *PRESET, "--batch-size", "0"), "batch_size"),
        (("rnu",), "did you mean run"),
        (("resume",), "there is no run"),
        (("status", "demo"), "there is no run"),
        (("status", "--jsno"), "--jsno"),
        (("run", "--epochs", "many"), "epochs"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = ubq(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_near_name_of_a_run(tmp_path: Path) -> None:
    ubq(tmp_path, "run", *PRESET, *STEPS, "--epochs", "1", "--run", "first")
    assert "did you mean first" in ubq(tmp_path, "status", "frist").stderr


def test_detached_attached_stopped_and_resumed(detached: Path) -> None:
    shot = wait_for(detached, lambda s: s["stages"][0]["step"] > 2)
    assert shot["state"] == "running"
    assert shot["owner"]["detached"] is True
    stage = shot["stages"][0]
    assert {"loss", "best_loss", "eta", "last_checkpoint"} <= stage.keys()
    held = ubq(detached, "resume")
    assert held.returncode == 4
    assert f"process {shot['owner']['pid']}" in held.stderr
    attached = started(detached, "attach")
    following = started(detached, "logs", "-f")
    watched = started(detached, "status", "--watch")
    stopped = ubq(detached, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert "interrupted; resume with: ubq resume job" in attached.communicate()[0]
    assert attached.returncode == 143
    assert "resume with: ubq resume job" in following.communicate()[0]
    assert "job: interrupted" in watched.communicate()[0]
    shot = status(detached)
    assert (shot["state"], shot["exit_code"], shot["owner"]) == ("interrupted", 143, None)
    assert shot["next_command"] == "ubq resume job"
    saved = next(s for s in shot["stages"] if s["state"] == "interrupted")
    assert saved["last_checkpoint"] == saved["step"] > 0
    resumed = ubq(detached, "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{saved['name']}: resuming at step {saved['step']}" in resumed.stdout
    assert ubq(detached, "stop").returncode == 2  # nothing runs any more


def test_stop_now_and_a_killed_job(detached: Path) -> None:
    shot = wait_for(detached, lambda s: (s["stages"][0]["last_checkpoint"] or 0) > 0)
    assert ubq(detached, "stop", "--now").returncode == 0
    after = status(detached)
    assert after["state"] in ("crashed", "interrupted")
    assert after["owner"] is None
    assert ubq(detached, "resume", "--detach", hold="autoencoder").returncode == 0
    shot = wait_for(detached, lambda s: s["state"] == "running")
    os.kill(shot["owner"]["pid"], signal.SIGKILL)
    shot = wait_for(detached, lambda s: s["state"] == "crashed")
    assert shot["next_command"] == "ubq resume job"
    assert ubq(detached, "resume").returncode == 0
    assert status(detached)["state"] == "completed"


def test_a_detached_job_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    done = ubq(tmp_path, "run", *PRESET, "--detach")
    assert done.returncode == 2
    assert "error:" in done.stderr


def test_the_job_survives_its_terminal(tmp_path: Path) -> None:
    """Started with --detach inside a pseudo-terminal that is then closed: it goes on to the end."""
    command = ("run", *PRESET, *STEPS, "--epochs", "40", "--run", "job", "--detach")
    pid, terminal = in_a_terminal(tmp_path, *command, hold="autoencoder")
    output = b""
    while b"follow it with" not in output:
        output += os.read(terminal, 4096)
    os.close(terminal)  # the kernel sends SIGHUP to the terminal's session
    os.waitpid(pid, 0)
    shot = wait_for(tmp_path, lambda s: s["stages"] and s["stages"][0]["step"] > 2)
    assert shot["state"] == "running"
    (tmp_path / "runs/job/go").touch()
    shot = wait_for(tmp_path, lambda s: s["owner"] is None)
    assert shot["state"] == "completed"


def test_a_job_in_a_lost_terminal_saves(tmp_path: Path) -> None:
    """Not detached: the hangup saves it."""
    command = ("run", *PRESET, *STEPS, "--epochs", "40", "--run", "job")
    pid, terminal = in_a_terminal(tmp_path, *command, hold="autoencoder")
    wait_for(tmp_path, lambda s: s["stages"] and s["stages"][0]["step"] > 2)
    os.close(terminal)
    _pid, code = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(code) == 129
    assert status(tmp_path)["state"] == "interrupted"


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    pid, terminal = in_a_terminal(tmp_path, "run", *PRESET, *STEPS, "--epochs", "5", hold="autoencoder")
    output = b""
    while b"/40 loss" not in output:
        output += os.read(terminal, 65536)
    (tmp_path / "runs/smoke/go").touch()
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    _pid, code = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(code) == 0
    assert "━" in output.decode()


HEAVY = ("torch", "numpy", "textual", "matplotlib", "pydantic_settings", "ubq.config.schema", "rich", "psutil")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("status",), ("runs",), ("run", "--help")])
def test_light_commands_import_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ubq(tmp_path, "run", *PRESET, *STEPS, "--epochs", "1")
    program = (
        "import sys; from ubq.cli import main; code = main(sys.argv[1:]);"
        "print(code, *sorted(m for m in sys.modules if m in " + repr(HEAVY) + "), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    code, *imported = done.stderr.split()
    assert code == "0", done.stderr
    assert done.stdout
    allowed = {"rich"} if "--help" in arguments else set()  # Typer draws help with Rich
    assert set(imported) <= allowed


def state_of_process(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_job_stopped_with_ctrl_z_is_continued_so_that_it_can_save(detached: Path) -> None:
    shot = wait_for(detached, lambda s: s["stages"][0]["last_checkpoint"])
    pid = shot["owner"]["pid"]
    os.kill(pid, signal.SIGTSTP)
    os.kill(pid, signal.SIGSTOP)  # one that leads its session ignores the former
    while state_of_process(pid) != "T":
        time.sleep(0.01)
    done = ubq(detached, "stop")
    assert done.returncode == 0, done.stderr
    assert status(detached)["state"] == "interrupted"


def test_resume_with_a_value_runs_again_what_depends_on_it(tmp_path: Path) -> None:
    assert ubq(tmp_path, "run", *PRESET, *STEPS, "--epochs", "7", "--run", "r").returncode == 0
    (tmp_path / "elsewhere").mkdir()
    options = ("--runs-dir", str(tmp_path / "runs"), "--set", "qat.epochs=3")
    dry = ubq(tmp_path / "elsewhere", "resume", "r", *options, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert [line.split(maxsplit=1)[1] for line in dry.stdout.splitlines()[:3]] == [
        "up to date",
        "up to date",
        "run  (qat.epochs 7 -> 3)",
    ]
    done = ubq(tmp_path / "elsewhere", "resume", "r", *options, "--no-preflight")
    assert done.returncode == 0, done.stderr
    assert [s["step"] for s in status(tmp_path)["stages"]] == [40, 40, 3, 0]
