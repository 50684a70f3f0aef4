"""What a shell and its user take for granted: completion, pipes, odd environments, options in any place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ubq.cli import main
from ubq.i18n import set_language
from ubq.jobs.state import FAILED, RUNNING, RunState, StageState, write_state

REPOSITORY = Path(__file__).parents[2]
COMMANDS_OF_RUNS = ("status", "resume", "logs", "attach", "stop", "report", "doctor", "wizard", "sample", "export",
                    "deploy pi", "quant analyze", "bench sample", "bench steps")  # fmt: skip


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    for name in [n for n in os.environ if n.startswith("UBQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/marmousi", "runs/marmousi-2", "runs/other", "elsewhere/far"):
        make_run(Path(folder))
    yield
    set_language(None)


def make_run(folder: Path, **state: object) -> None:
    folder.mkdir(parents=True)
    write_state(folder / "state.json", RunState(run=folder.name, created="2026-01-01T00:00:00Z", **state))  # type: ignore[arg-type]


def ubq(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ubq", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )


def offered(shell: str, line: str) -> list[str]:
    """What a shell's completion script is given for a line that is being typed."""
    words = line.split(" ")
    asked: Mapping[str, str] = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = ubq(**{"_UBQ_COMPLETE": f"complete_{shell}", **asked})
    assert "Traceback" not in done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_runs_and_presets(shell: str) -> None:
    text = " ".join(offered(shell, "ubq stop mar"))
    assert "marmousi" in text
    assert "marmousi-2" in text
    assert "other" not in text
    assert "curvefault-a" in " ".join(offered(shell, "ubq run --preset curvef"))


@pytest.mark.parametrize("command", ["ubq config show --preset curvef", "ubq doctor curvef"])
def test_presets_are_offered_wherever_one_is_named(command: str) -> None:
    assert "curvefault-a" in offered("bash", command)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS_OF_RUNS)
def test_every_command_of_runs_completes_them(command: str) -> None:
    assert set(offered("bash", f"ubq {command} mar")) == {"marmousi", "marmousi-2"}


def test_completion_looks_where_the_command_will() -> None:
    assert offered("bash", "ubq stop --runs-dir elsewhere ") == ["far"]
    assert offered("bash", "ubq stop --runs-dir nowhere ") == []


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize("arguments", [("runs",), ("runs", "--json"), ("--help",)])
def test_a_reader_that_leaves_is_no_error(arguments: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ubq", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


@pytest.mark.parametrize("columns", ["0", "", "wide"])
def test_a_width_that_is_none_hides_nothing(columns: str) -> None:
    assert "Usage: ubq" in ubq("--help", COLUMNS=columns).stdout


@pytest.mark.parametrize(("value", "shown"), [("0", False), ("", False), ("1", True)])
def test_debug_is_off_at_0(value: str, shown: bool) -> None:
    done = ubq("status", "nosuch", UBQ_DEBUG=value)
    assert done.returncode == 2
    assert ("Traceback" in done.stderr) is shown


@pytest.mark.parametrize(
    "arguments",
    [("--lang", "zh_CN", "runs", "--help"), ("runs", "--help", "--lang", "zh_CN"), ("runs", "--lang=zh_CN", "--help")],
)
def test_the_language_may_stand_anywhere(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "列出" in capsys.readouterr().out


def test_nothing_asked_is_answered_with_where_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert "Usage: ubq" in shown.out
    assert shown.err == "to begin: ubq wizard\n"
    assert main(["config"]) == 2
    assert capsys.readouterr().err == ""


def test_presets_are_described_in_the_chosen_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "list", "--lang", "zh_CN"]) == 0
    assert "整个流水线" in capsys.readouterr().out


def test_a_crashed_run_says_what_it_will_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    stage = StageState("train-diffusion", state=RUNNING, step=730, steps=1000, rate=2.0, last_checkpoint=500)
    make_run(Path("runs/gone"), state=RUNNING, stages=[stage])
    make_run(Path("runs/early"), state=RUNNING, stages=[StageState("train-seismic", state=RUNNING, step=30, steps=99)])
    assert main(["status", "gone"]) == 0
    assert "train-diffusion goes on from step 500: 230 steps are repeated (1 min 55 s)" in capsys.readouterr().out
    assert main(["status", "early"]) == 0
    assert "train-seismic has no checkpoint and starts over: 30 steps are repeated" in capsys.readouterr().out


def test_doctor_names_the_stage_of_a_failed_start(capsys: pytest.CaptureFixture[str]) -> None:
    from ubq.config.load import load_config, write_frozen

    error = {"stage": "", "message": "12 GB needed", "fix": ""}
    make_run(Path("runs/full"), state=FAILED, error=error, exit_code=3)
    Path("runs/full/config.toml").write_text(write_frozen(load_config("smoke", isolated=True).config))
    main(["doctor", "full"])
    assert "failed in preflight: 12 GB needed" in capsys.readouterr().out.replace("\n", " ")
