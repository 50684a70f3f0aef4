"""Options are understood as the three-script workflow spelled them: ``--train_data`` is ``--train-data``."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from ubq.cli import app, main

VALUES = {"--gathers": "wave"}
"""Of the options that do not take any number or text."""


def options_of(command: str) -> list[Any]:
    group = typer.main.get_command(app)
    found = group.get_command(None, command)
    return [p for p in found.params if any(o.startswith("--") for o in p.opts)]


@pytest.mark.parametrize("command", ["run", "sample", "doctor", "deploy"])
def test_every_option_may_be_spelled_with_underscores(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, Any] = {}
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda _command, ctx: read.update(ctx.params))
    for option in options_of(command):
        for name in (*option.opts, *option.secondary_opts):
            if not name.startswith("--") or name == "--help":
                continue
            value = [] if option.is_flag else [VALUES.get(name, "1")]
            target = ["host:path"] if command == "deploy" else []
            given = {}
            for spelled in (name, "--" + name[2:].replace("-", "_")):
                read.clear()
                assert main([command, *target, spelled, *value]) == 0, spelled
                given[spelled] = dict(read)
            assert len({repr(params) for params in given.values()}) == 1, given


def test_the_values_of_options_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, Any] = {}
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda _command, ctx: read.update(ctx.params))
    assert main(["run", "--train_data=a_b", "--set", "qat.batch_size=3", "--pretrained_path", "my_model.pt"]) == 0
    assert (read["train_data"], read["assignments"], read["pretrained_path"]) == (
        "a_b",
        ["qat.batch_size=3"],
        "my_model.pt",
    )
