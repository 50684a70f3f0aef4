"""A folder to work in, and a probe that needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from harness import ANSWERS

from ubq.tui import processes


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; neither the user's settings nor the environment's."""
    for name in [n for n in os.environ if n.startswith("UBQ_") and n != "UBQ_SHARED"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The probe answers from :data:`ANSWERS` at once; the list has (question, configuration text)."""
    asked: list[tuple[str, str]] = []

    async def ask(self: processes.Lookup, question: str, file: str, text: str, timeout: float = 0) -> dict[str, Any]:
        asked.append((question, text))
        return ANSWERS[question]

    monkeypatch.setattr(processes.Lookup, "ask", ask)
    return asked
