"""Where runs are looked for, and names that are unusual: the commands in this process, on the toy pipeline."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ubq.cli import main
from ubq.errors import EXIT_USAGE
from ubq.jobs.owner import OWNER, Hold, this_process
from ubq.jobs.state import RunState, StageState, write_state

ESCAPE = "\x1b[2J"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working folder of their own."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    return home


def make_run(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    stages = changes.pop("stages", [StageState("diffusion", "interrupted", step=3, steps=9)])
    state = RunState(run=folder.name, created="2026-01-01T00:00:00Z", state="interrupted", stages=stages)
    write_state(folder / "state.json", dataclasses.replace(state, next_command="ubq resume old", **changes))
    return folder


def ubq(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "Traceback" not in text
        assert "defect" not in text
        assert not [c for c in text if not c.isprintable() and c not in "\n\t"]
    return code, shown.out, shown.err


@pytest.mark.parametrize("how", ["project", "extended", "environment", "option", "user"])
def test_run_dir_is_where_runs_are_looked_for(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    make_run(home / "big disk" / "job")
    options: list[str] = []
    if how == "project":
        Path("ubq.toml").write_bytes(b'\xef\xbb\xbfextends = "demo"\r\n[run]\r\ndir = "~/big disk"\r\n')
    elif how == "extended":
        Path("base.toml").write_text('extends = "demo"\nrun.dir = "~/big disk"\n')
        Path("ubq.toml").write_text('extends = "./base.toml"\n')
    elif how == "environment":
        monkeypatch.setenv("UBQ_RUN__DIR", "~/big disk")
    elif how == "user":
        (home / ".config" / "ubq").mkdir(parents=True)
        (home / ".config" / "ubq" / "config.toml").write_text('run.dir = "~/big disk"\n')
    else:
        options = ["--runs-dir=~/big disk"]
    for command in ("status", "runs"):
        code, out, _err = ubq(capsys, command, *options)
        assert code == 0
        assert "job" in out
    assert json.loads(ubq(capsys, "status", "--json", *options)[1])["folder"] == str(home / "big disk" / "job")
    assert not Path("~").exists()
    code, out, _err = ubq(capsys, "status", *options)
    wanted = [] if how != "option" else ["--runs-dir", str(home / "big disk")]
    assert shlex.split(out.splitlines()[-1].partition("next: ")[2]) == ["ubq", "resume", "job", *wanted]
    assert ubq(capsys, "status", "~/big disk/job")[0] == 0


def test_a_configuration_that_cannot_be_read_keeps_nobody_from_looking(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs/job"))
    Path("ubq.toml").write_text("[run\n")
    assert ubq(capsys, "status")[0] == 0


def test_a_user_without_a_home(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    make_run(Path("runs/job"))
    assert ubq(capsys, "status")[0] == 0
    assert ubq(capsys, "config", "show", "--preset", "smoke")[0] == 0
    code, _out, err = ubq(capsys, "run", "--preset", "smoke", "--runs-dir", "~/runs")
    assert code == EXIT_USAGE
    assert "no home folder" in err


def test_a_renamed_run_is_known_by_its_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs/old"))
    os.rename("runs/old", "runs/new")
    code, out, _err = ubq(capsys, "status", "new")
    assert code == 0
    assert out.splitlines()[0].startswith("new: interrupted")
    assert out.splitlines()[-1] == "next: ubq resume new"
    assert json.loads(ubq(capsys, "runs", "--json")[1])["runs"][0]["run"] == "new"


NAMES = ["-job", "two words", "$HOME;x", f"a{ESCAPE}b", "line\nbreak", os.fsdecode(b"caf\xe9"), "n" * 255, "'quoted'"]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(n)[:12] for n in NAMES])
def test_unusual_names_are_listed_shown_and_their_commands_work_when_pasted(
    capsys: pytest.CaptureFixture[str], name: str, tmp_path: Path
) -> None:
    make_run(tmp_path / "other place" / name)
    place = ["--runs-dir", str(tmp_path / "other place")]
    assert ubq(capsys, "runs", *place)[0] == 0
    assert ubq(capsys, "runs", "--json", *place)[0] == 0
    code, out, _err = ubq(capsys, "status", *place)
    assert code == 0
    pasted = out.partition("next: ")[2].rstrip("\n")
    words = subprocess.run(["bash", "-c", "printf '%s\\0' " + pasted], capture_output=True, check=True).stdout
    wanted = ["ubq", "resume", *place, "--", name] if name[0] == "-" else ["ubq", "resume", name, *place]
    assert words.split(b"\0")[:-1] == [os.fsencode(w) for w in wanted]
    assert ubq(capsys, "status", *place, "--", name)[0] == 0


def test_a_neighbour_that_cannot_be_read_ends_no_listing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(Path("runs/good"))
    make_run(Path("runs/locked"))
    make_run(Path("runs/nan"))
    for name, content in (("torn", b'{"schema'), ("nan", b""), ("list", b"[]"), ("deep", b"[" * 100_000)):
        Path("runs", name).mkdir(exist_ok=True)
        Path("runs", name, "state.json").write_bytes(content)
    state = json.loads(Path("runs/good/state.json").read_text())
    state["stages"][0]["seconds"] = 1e999
    Path("runs/nan/state.json").write_text(json.dumps(state))
    Path("runs/folder/state.json").mkdir(parents=True)
    Path("runs/loop").symlink_to("loop")
    Path("runs/a file").write_text("")
    real = os.stat

    def stat(path: Any, **given: Any) -> os.stat_result:
        if "locked" in str(path) and str(path).endswith((".json", ".toml")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **given)

    monkeypatch.setattr(os, "stat", stat)
    code, out, _err = ubq(capsys, "runs")
    assert code == 0
    listed = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert listed["good"] == "interrupted"
    assert set(listed) == {"good", "locked", "torn", "nan", "list", "deep"}
    assert ubq(capsys, "status", "good")[0] == 0


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_a_file_of_a_run_that_is_no_file_is_not_waited_for(kind: str) -> None:
    def put(path: str) -> None:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path)
        elif kind == "folder":
            Path(path).mkdir()
        else:
            Path(path).symlink_to("/dev/zero")

    make_run(Path("runs/good"))
    make_run(Path("runs/odd"))
    for name in (OWNER, "config.toml", "events.jsonl", "metrics.jsonl", "sources.json", "slurm.json"):
        put(f"runs/odd/{name}")
    Path("runs/other").mkdir()
    put("runs/other/config.toml")
    put("ubq.toml")
    script = "from ubq.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for arguments in (["runs"], ["status", "odd"]):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "odd" in done.stdout


def test_words_of_others_in_a_state_file_and_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"stage": f"x{ESCAPE}", "message": f"bad {ESCAPE}\x9b", "fix": "\x07"}
    figures = {"phase": ESCAPE}
    stage = StageState(f"dif{ESCAPE}", "running", phase=ESCAPE, figures=figures, step=1, steps=2)
    folder = make_run(Path("runs/job"), preset=ESCAPE, error=error, stages=[stage])
    owner = dataclasses.replace(this_process(), host=f"host{ESCAPE}")
    (folder / OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
    (folder / "run.log").write_bytes(b"before\r\n" + ESCAPE.encode() + b"\x9b\x07\xff after\n")
    for command in (["status"], ["runs"], ["status", "--json"], ["runs", "--json"], ["logs"]):
        assert ubq(capsys, *command)[0] == 0
    assert ubq(capsys, "logs")[1].splitlines()[0] == "before"


def test_stop_without_a_name_takes_the_one_that_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "newest"):
        make_run(Path("runs", name))
    stopped: list[str] = []
    monkeypatch.setattr("ubq.jobs.detach.stop_run", lambda run, *a, **k: stopped.append(run.name) or True)
    code, _out, err = ubq(capsys, "stop")
    assert code == EXIT_USAGE
    assert "no run is running" in err
    with Hold(Path("runs/one")):
        assert ubq(capsys, "stop")[0] == 0
        assert stopped == ["one"]
        with Hold(Path("runs/two")):
            code, _out, err = ubq(capsys, "stop")
            assert code == EXIT_USAGE
            assert "ubq stop one" in err
            assert "ubq stop two" in err
    assert stopped == ["one"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--preset", "smoke", "--run", "n" * 300),
        ("run", "--preset", "smoke", "--runs-dir", "/proc/nowhere"),
        ("run", "--preset", "smoke", "--runs-dir", "a file/runs"),
        ("run", "--preset", "smoke", "--set", "data.train_velocity=~nobody-here/x"),
        ("run", "--preset", "smoke", "--runs-dir", "~nobody-here/x"),
        ("run", "--config", "n" * 300),
        ("run", "--config", "."),
        ("status", "n" * 300),
        ("status", "x" * 5000 + "/y"),
        ("resume", f"a{ESCAPE}"),
        ("config", "init", "--preset", "demo", "--output", "/proc/nowhere/ubq.toml"),
    ],
)
def test_places_that_do_not_work_are_one_clear_line(capsys: pytest.CaptureFixture[str], arguments: Any) -> None:
    Path("a file").write_text("")
    code, out, err = ubq(capsys, *arguments)
    assert code == EXIT_USAGE, err
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2


def test_a_run_is_named_by_the_working_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(Path("runs/s1/deeper").parent)
    Path("runs/s1/deeper").mkdir()
    monkeypatch.chdir("runs/s1")
    for shown in (".", "./", "../s1", "deeper/.."):
        code, out, _err = ubq(capsys, "status", shown)
        assert (code, "ubq resume s1 " in out) == (0, True), shown
    monkeypatch.chdir("deeper")
    assert ubq(capsys, "status", "..")[0] == 0
