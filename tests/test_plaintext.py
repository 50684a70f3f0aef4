"""Text of others reaches a terminal without the characters that it obeys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ubq.plaintext import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x9b2J\x07\x7f", r"\x9b2J\x07\x7f"),
        ("10 %\r100 %", r"10 %\r100 %"),
        ("one\r\ntwo\tthree\n", "one\ntwo\tthree\n"),
        ("gnp\u202etxt\u2066", r"gnp\u202etxt\u2066"),
        ("a\u2028b", r"a\u2028b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("速度模型 é 1 м", "速度模型 é 1 м"),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_no_terminal_gets_them_through_any_tool_of_the_command_line() -> None:
    """Commands print through ``ubq.cli.output``, which spells them out."""
    folder = Path(__file__).parents[1] / "ubq" / "cli"
    assert [f.name for f in folder.glob("*.py") if "typer.echo(" in f.read_text()] == []
