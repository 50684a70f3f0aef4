"""Advice that ubq prints can be followed: the command line parses its commands, the schema has its keys.

Advice is read out of the source, so that new advice is held to this without being listed here: commands (``ubq …``,
``generate.py …``) in any string, options and dotted keys in strings for people; and all of it in the translations.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from babel.messages.pofile import read_po

import ubq
from ubq.cli import COMMANDS, app, main
from ubq.config import keys, presets
from ubq.config.load import load_config, parse_assignments
from ubq.errors import UbqError
from ubq.export.bundle import generate
from ubq.jobs.fixes import MARKS, TABLES, fix_of, out_of_memory
from ubq.stages import PIPELINE

PACKAGE = Path(ubq.__file__).parent
CATALOGUES = sorted(PACKAGE.glob("locale/*/LC_MESSAGES/*.po"))

COMMAND = re.compile(r"(?<![\w./:@-])(ubq|generate\.py) (?=[a-z{-])([ -~…]+)")
"""The program and what follows it, as far as there are no other letters than a command line has (Chinese ends it)."""
END = re.compile(r"[;`|)\n]|[,.:](?=\s|$)")
SAYS = frozenset(
    ("again", "and", "does", "for", "gives", "it", "lists", "needs", "on", "or", "says", "shows", "then", "to", "with",
     "without")
)  # fmt: skip
"""Words of a sentence that goes on after a command."""
IS_NO_COMMAND = frozenset(("are", "computes", "exported", "has", "is", "knows", "never", "refuses", "that", "was"))
"""What ubq itself does in a sentence."""
OPTION = re.compile(r"(?<![\w./`-])--[a-z][\w-]*")
OTHER_PROGRAMS = re.compile(r"(?:pip|apt|sudo|git|ssh|curl)\b[^;`\n]*")
KEY = re.compile(r"(?<![\w./\\@{<-])(?:[A-Za-z_]\w*|\{\w*\})(?:\.(?:[a-z_0-9]+|\{\w*\}))+(?![\w(/.-]|\{)")
NO_KEY = re.compile(
    r".*\.(bin|fbs|json|jsonl|local|log|md|npy|onnx|png|pt|pte|py|toml|tsv|txt|yaml|zip|tar|gz|whl|org|com)|"
    r"(torch|numpy|ubq|python|np)\..*|.*\d\.\d.*|e\.g|i\.e"
)
"""Files, modules of Python and numbers, which have dots too."""
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
STAND_IN = "1"
"""In the place of what is filled in: a number, a name and a file."""


@dataclass(frozen=True)
class Text:
    """A string of the source or of a catalogue.

    Args:
        place: where it stands.
        text: with ``{}`` for what an f-string puts in.
        told: it is said to people as it stands, so that options and keys in it are advice.
    """

    place: str
    text: str
    told: bool


def strings(file: Path) -> Iterator[Text]:
    """The strings of a module but its docstrings; an f-string is one."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped, told = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            skipped.update(node.values)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "_" or called.endswith("Error"):
                told.update(node.args)
            told.update(k.value for k in node.keywords if k.arg in ("fix", "action"))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        yield Text(f"{file.relative_to(PACKAGE.parent)}:{node.lineno}", text, node in told)


@cache
def texts() -> list[Text]:
    found = [text for file in sorted(PACKAGE.rglob("*.py")) for text in strings(file)]
    for file in CATALOGUES:
        with file.open("rb") as opened:
            for message in read_po(opened):
                if isinstance(message.id, str) and message.id:  # help of commands and keys is only here
                    place = f"{file.parts[-3]}: {message.id!r}"
                    found += [Text(place, message.id, True), Text(place, str(message.string), True)]
    return found


def commands(text: str) -> Iterator[list[str]]:
    """Command lines in a text, as words."""
    at = 0
    while match := COMMAND.search(text, at):
        at = match.end(1)
        line = END.split(match[2])[0]
        words = [match[1]]
        for word in _words(line):
            if word in SAYS:
                break
            words.append(word)
        if words[1:2] and words[1] not in IS_NO_COMMAND and not any("$" in w for w in words):  # "$": of a script
            yield words


def _words(line: str) -> list[str]:
    line = PLACEHOLDER.sub(STAND_IN, line)
    try:
        return shlex.split(line)
    except ValueError:  # an apostrophe of the sentence that it stands in
        return [word.strip("'\"") for word in line.split()]


def advised() -> list[tuple[str, list[str]]]:
    """Every command line that is advised, and where; ``ubq {verb} …`` is put together elsewhere."""
    return [(t.place, words) for t in texts() for words in commands(t.text) if words[1:2] != [STAND_IN]]


class Parser:
    """The real command line, which stops where a command would begin its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.read: dict[str, Any] = {}
        monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda _command, ctx: self.read.update(ctx.params))

    def problem(self, words: list[str]) -> str:
        """What is wrong with a command line; empty when nothing is."""
        self.read.clear()
        if words[0] == "generate.py":
            return self._of_generate(words[1:])
        code = main(words[1:])
        output = self.capsys.readouterr()
        if code and "Usage:" not in output.out + output.err:  # a group's name alone shows its help
            return output.err.strip()
        return self._values()

    def _values(self) -> str:
        """What the parser leaves to the command: names of presets, stages and keys."""
        preset, assignments = self.read.get("preset"), self.read.get("assignments") or []
        if preset and not _open(preset) and preset not in presets.names():
            return f"there is no preset {preset}"
        for option in ("only", "until", "force"):
            stage = self.read.get(option)
            if isinstance(stage, str) and stage and not _open(stage) and stage not in [s.name for s in PIPELINE]:
                return f"there is no stage {stage}"
        return next(filter(None, map(assignment_problem, assignments)), "")

    def _of_generate(self, words: list[str]) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["generate.py", *words])
            try:
                generate.read_options()
            except SystemExit as error:
                return self.capsys.readouterr().err if error.code else ""
        return ""


def _open(value: str) -> bool:
    """Whether a value is for the reader to fill in."""
    return value in (STAND_IN, "…") or value.isupper()


def assignment_problem(text: str) -> str:
    """What is wrong with a ``KEY=VALUE``."""
    key, _equals, value = text.partition("=")
    if not is_key(key):
        return f"there is no key {key}"
    if _open(value) or _open(key.partition(".")[0]):
        return ""
    try:
        load_config("smoke", parse_assignments([text]), isolated=True)
    except UbqError as error:
        return str(error)
    return ""


@cache
def known_keys() -> frozenset[str]:
    return frozenset(".".join(path) for path in keys.all_keys())


def is_key(name: str) -> bool:
    """Whether a dotted name, of which parts may be open, is a key or a table."""
    parts = ["*" if _open(p) else p for p in PLACEHOLDER.sub(STAND_IN, name).split(".")]
    return any(fnmatch(key, ".".join(parts)) for key in known_keys())


@cache
def known_options() -> frozenset[str]:
    """Options of every command, and of the file that is copied to the Pi."""
    root = typer.main.get_command(app)
    context = typer.Context(root)
    found = set(OPTION.findall(Path(generate.__file__).read_text(encoding="utf-8"))) | {"--help"}
    waiting = [root, *(root.get_command(context, name) for name in COMMANDS)]  # type: ignore[attr-defined]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        found.update(o for p in command.params for o in (*p.opts, *p.secondary_opts))
    return frozenset(found)


def test_every_command_that_is_advised_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser(monkeypatch, capsys)
    wrong = {f"{place}: {shlex.join(words)}": p for place, words in advised() if (p := parser.problem(words))}
    assert wrong == {}


def advised_options(said: Iterable[Text]) -> list[tuple[str, str]]:
    return [(t.place, o) for t in said if t.told for o in OPTION.findall(OTHER_PROGRAMS.sub("", t.text))]


def wrong_options(said: Iterable[Text]) -> list[tuple[str, str]]:
    return [(place, option) for place, option in advised_options(said) if option not in known_options()]


def advised_keys(said: Iterable[Text]) -> list[tuple[str, str]]:
    found = [(t.place, key) for t in said if t.told for key in KEY.findall(COMMAND.sub("", t.text))]
    return [(place, key) for place, key in found if not NO_KEY.fullmatch(key)]


def wrong_keys(said: Iterable[Text]) -> list[tuple[str, str]]:
    return [(place, key) for place, key in advised_keys(said) if not is_key(key)]


def test_every_option_that_is_advised_is_one() -> None:
    assert wrong_options(texts()) == []
    assert len(advised_options(texts())) > 20


def test_every_key_that_is_advised_is_one() -> None:
    assert wrong_keys(texts()) == []
    assert len(advised_keys(texts())) > 20


def test_every_assignment_that_is_advised_holds() -> None:
    found = [(t.place, m) for t in texts() for m in re.findall(r"--set ([^\s;`]+)", t.text) if "=" in m]
    wrong = {f"{place}: {m}": p for place, m in found if (p := assignment_problem(PLACEHOLDER.sub(STAND_IN, m)))}
    assert wrong == {}


@pytest.mark.parametrize("preset", ["smoke", "demo", "curvefault-a"])
def test_every_fix_of_a_mark_and_of_lost_memory_is_a_command(
    preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser(monkeypatch, capsys)
    off = {"quant.convert_conv1d": False, "quant.scheme": "default", "quant.keep_float": ["unet.*"]}
    short, diverged = (f"{stage}: {why}" for stage, why in zip(TABLES, ("5 of 8 needed", "rising"), strict=False))
    for changes in ({}, off, {"model.dim_mults": [1, 2, 4, 8]}, {"export.solver": "ddim", "export.steps": 2}):
        config = load_config(preset, changes, isolated=True).config
        fixes = [fix_of(mark, config, how) for mark in MARKS for how in ("", short, diverged)]
        fixes += [out_of_memory(config, stage, tried) for stage in (*TABLES, "export") for tried in (0, 1000)]
        for fix in fixes:
            text = fix.command(Path("my runs/demo"))
            found = [shlex.split(text[text.index("ubq ") :])] if fix.apply else list(commands(text))
            assert found or fix.action, fix
            assert [problem for words in found if (problem := parser.problem(words))] == [], text


@pytest.mark.parametrize(
    "text",
    ["look with: ubq chekpoint inspect FILE", "start with: ubq run --checkpoint x.pt", "list them: ubq presets lst",
     "export it: ubq run --force exprot", "train on: ubq run --set qat.epoch=3", "set it: ubq run --set qat.epochs=no",
     "看看：ubq data inspct {folder}。", "try: generate.py --cuont 2", "`ubq run --preset dmeo`"],
)  # fmt: skip
def test_wrong_advice_is_noticed(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((words),) = commands(text)
    assert Parser(monkeypatch, capsys).problem(words)


def test_wrong_keys_and_options_are_noticed() -> None:
    told = Text("", "give --pretrianed, or set data.train_velocty, qat.epochs or {table}.batch_size", True)
    assert wrong_options([told]) == [("", "--pretrianed")]
    assert wrong_keys([told]) == [("", "data.train_velocty")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it is not one: ubq presets list, or write your own", ["ubq", "presets", "list"]),
        ("ubq resume {run} --runs-dir {folder}", ["ubq", "resume", "1", "--runs-dir", "1"]),
        ("用 ubq quant analyze RUN --full 看看", ["ubq", "quant", "analyze", "RUN", "--full"]),
        ("ubq wizard needs a terminal", ["ubq", "wizard"]),
    ],
)
def test_a_command_ends_where_the_sentence_goes_on(text: str, words: list[str]) -> None:
    assert list(commands(text)) == [words]
