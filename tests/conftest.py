"""Fixtures that more than one test folder uses."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A test says what is right, never how fast it came: on a busy machine an example may take any time.
settings.register_profile("ubq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ubq")

# A shell starts background jobs with SIGINT ignored, and ubq respects that; the processes tested here are to be
# stoppable however the tests themselves were started. What is not ignored here is the default in a child.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference numbers and real velocity maps; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("UBQ_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the reference folder {folder} (set UBQ_SHARED)")
    return folder
