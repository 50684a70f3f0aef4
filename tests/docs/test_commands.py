"""Every command that README and docs show: run where that takes seconds, else planned, or read by the real parser.

A fenced block without a language, or with ``sh``, whose lines begin with a program, is of commands. Code in a line of
text that begins with ``ubq`` is read by the parser.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from packaging.requirements import Requirement

from ubq.cli import LazyGroup, app, main
from ubq.config.load import load_config, write_frozen
from ubq.stages.paths import RunPaths

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "bench/README.md", *sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")))  # fmt: skip
PROGRAMS = ("ubq", ".venv/bin/ubq", "make", "pip", "python", "srun", "systemd-run", "loginctl", ".venv/bin/pre-commit")
LAUNCHERS = {"srun": ("--ntasks-per-node",), "systemd-run": ()}
"""Programs that start another, and their options that take a value."""
PARSED = {
    "wizard": "needs a terminal and someone at it; tests/tui",
    "deploy": "needs a Raspberry Pi; tests/deploy",
    "export": "needs a trained model; tests/export, tests/cli",
    "sample": "needs a trained model; tests/cli",
    "bench": "takes minutes; tests/bench",
    "quant": "needs a trained model; tests/quant",
    "checkpoint": "needs a checkpoint; tests/upstream",
    "data forward": "takes a minute of modelling; tests/data",
}
"""Commands that are not run here, with why, and where they are."""


PROSE = ("MissingParameter", "BadParameter", "BadOptionUsage", "NoArgsIsHelpError")
"""Complaints of the parser that a command in text may give: it is named without its arguments, or N is a number."""


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def fenced(page: str) -> Iterator[Shown]:
    """Lines of the page's blocks of commands."""
    language = None
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            language = line.removeprefix("```").strip() if language is None else None
        elif language in ("", "sh") and line.partition(" ")[0] in PROGRAMS:
            yield Shown(page, number, line)


def inline(page: str) -> Iterator[Shown]:
    """Code in text that begins with ``ubq`` and says more than a command's name."""
    text = re.sub(r"```.*?```", lambda found: "\n" * found[0].count("\n"), (ROOT / page).read_text("utf-8"), flags=re.S)
    for number, line in enumerate(text.splitlines(), 1):
        for code in re.findall(r"`(ubq (?!--)[^`]+)`", line):  # an option of ubq itself acts while it is read
            yield Shown(page, number, code)


def words(shown: Shown) -> list[str]:
    """The command's words, without its comment, launcher, and dots for more of the like."""
    found = [w for w in shlex.split(shown.text, comments=True) if w not in ("...", "…")]
    if found[0] in LAUNCHERS:
        takes_value = LAUNCHERS[found[0]]
        at = 1
        while found[at].startswith("-"):
            at += 2 if found[at] in takes_value else 1
        found = found[at:]
    return found


def parse(arguments: list[str]) -> str:
    """What the parser takes the words for, as ``data inspect``; raises where it does not understand them."""
    command: Any = typer.main.get_command(app)
    context, rest, names = None, arguments, []
    while True:
        context = command.make_context(names[-1] if names else "ubq", list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not hasattr(command, "resolve_command") or not rest:
            return " ".join(names)
        name, command, rest = command.resolve_command(context, rest)
        names.append(name)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the pages speak of: data, a checkpoint's name, a finished run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UBQ_LANG", "en")
    monkeypatch.setattr("ubq.config.load.missing_modules", lambda extra: ())  # as where every extra is installed
    maps = np.linspace(1500, 4500, 2 * 70 * 70, dtype=np.float32).reshape(2, 1, 70, 70)
    gathers = np.zeros((2, 5, 1000, 70), np.float32)
    gathers[:, :, 500] = 1
    for folder in ("CurveFault-A", "seismic", "velocity", "mine"):
        (tmp_path / folder).mkdir()
        if folder != "velocity":
            np.save(tmp_path / folder / "seis2_1_0.npy", gathers)
        if folder != "seismic":
            np.save(tmp_path / folder / "vel2_1_0.npy", maps)
    (tmp_path / "model-4.pt").write_bytes(b"a checkpoint")
    paths = RunPaths(tmp_path / "runs" / "demo")
    paths.root.mkdir(parents=True)
    config = load_config("demo", {"run.dir": str(tmp_path / "runs")}, isolated=True).config
    paths.config.write_text(write_frozen(config))
    paths.log.write_text("")
    return tmp_path


def check_ubq(arguments: list[str]) -> None:
    name = parse(arguments)
    if any(name == known or name.startswith(known + " ") for known in PARSED):
        return
    if name in ("run", "resume"):
        arguments = [*(a for a in arguments if a not in ("--detach", "--dry-run")), "--dry-run"]
    if name == "submit":
        arguments = ["submit", "--print", *arguments[1:]]
    wanted = (0, 3) if name == "doctor" else (0,)  # it finds what this folder lacks
    assert main(arguments) in wanted


def check(arguments: list[str]) -> None:
    program, *rest = arguments
    if program in ("ubq", ".venv/bin/ubq"):
        check_ubq(rest)
    elif program == "make":
        subprocess.run(["make", "-n", "-C", str(ROOT), *rest], check=True, capture_output=True)
    elif program == "python":
        assert (ROOT / rest[0]).is_file() or rest[0] == "-m", rest
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        wanted = Requirement(rest[-1].replace(".[", "ubq[", 1)).extras
        assert rest[0] == "install"
        assert set() < wanted <= set(extras)
    else:
        assert program in ("loginctl", ".venv/bin/pre-commit")  # not ours


COMMANDS = {words_text: shown for page in PAGES for shown in fenced(page) for words_text in [" ".join(words(shown))]}
"""Each command once, with the last place that shows it."""


def test_the_pages_show_commands() -> None:
    pages = {shown.page for page in PAGES for shown in fenced(page)}
    assert {"README.md", "README.zh-CN.md", "docs/data.md", "docs/commands.md"} <= pages
    assert len(COMMANDS) > 25
    assert set(PARSED) >= {"wizard", "deploy"}


@pytest.mark.parametrize("shown", COMMANDS.values(), ids=str)
def test_a_shown_command_works(shown: Shown, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(words(shown))


@pytest.mark.parametrize("page", PAGES)
def test_code_in_text_is_understood(page: str) -> None:
    wrong = []
    for shown in inline(page):
        try:
            assert parse(words(shown)[1:])
        except typer.Exit:
            pass  # --help
        except Exception as error:
            if type(error).__name__ not in PROSE:
                wrong.append(f"{shown}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_both_readmes_show_the_same_commands_and_figures() -> None:
    english, chinese = ("README.md", "README.zh-CN.md")
    assert [words(s) for s in fenced(english)] == [words(s) for s in fenced(chinese)]
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in (english, chinese)]
    marks = [re.findall(r"^(?:passed|FAILED)  .*$", text, re.M) for text in texts]
    assert marks[0] == marks[1] != []
    headings, links = ([re.findall(pattern, text, re.M) for text in texts] for pattern in (r"^(#+) ", r"\]\(([^)]+)\)"))
    assert headings[0] == headings[1]
    own = {"README.md", "README.zh-CN.md"}
    assert [x for x in links[0] if x not in own] == [x for x in links[1] if x not in own]


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [x.partition("#")[0] for x in re.findall(r"\]\(([^)]+)\)", text) if "://" not in x]
    assert [x for x in links if x and not ((ROOT / page).parent / x).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", *sorted(p for p in PAGES if p.startswith("docs/"))])
def test_python_shown_is_python(page: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S):
        compile(block, page, "exec")


def test_every_command_is_named_in_the_table_of_commands() -> None:
    table = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    context: Any = None
    names = LazyGroup(name="ubq").list_commands(context)
    assert [n for n in names if f"`ubq {n}" not in table] == []


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/exported.md", "docs/tui.md", "docs/scale.md"])
def test_a_measured_figure_stands_beside_what_measured_it(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    figure = re.compile(r"\d[\d.]* ?(?:ms|s|min|[kMG]B|%|毫秒|秒|分)(?!\w)")
    source = re.compile(r"`(?:make|ubq|python)\b|report|报告|`[a-z_]+`")  # a command, a report, a mark's name
    found = [part for part in text.split("\n\n") if figure.search(part)]
    assert [part for part in found if not source.search(part)] == []
    assert found or not page.startswith("README")
