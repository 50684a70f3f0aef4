"""Fixtures that more than one test folder uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference numbers and real velocity maps; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("UBQ_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the reference folder {folder} (set UBQ_SHARED)")
    return folder
