"""``ubq presets memory``: what training takes on several devices."""

from __future__ import annotations

import json

import pytest

from ubq.cli import main


def test_memory_of_a_preset_on_several_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "memory", "smoke", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["smoke"]
    plain = [facts["devices"][count]["plain"] for count in ("1", "2", "4", "8")]
    least = [facts["devices"][count]["least"] for count in ("1", "2", "4", "8")]
    assert plain == sorted(plain, reverse=True)
    assert all(less <= more for less, more in zip(least, plain, strict=True))
    assert 0 < facts["checkpoint"] < facts["disk"]
    assert main(["presets", "memory", "smoke"]) == 0
    head, line, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == line.count("|") == row.count("|")
    assert row.startswith("| smoke | 0.")
    assert main(["presets", "memory", "nothing-like-it"]) == 2
    assert "is not a preset" in capsys.readouterr().err
