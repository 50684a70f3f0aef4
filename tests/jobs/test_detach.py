"""A job started in the background: what is told of it is what it says, not what an earlier one left."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from ubq.jobs import detach
from ubq.jobs.state import RunState, write_state

HOLDS_AND_FAILS = """#!{python}
import sys, time
from pathlib import Path
from ubq.jobs.owner import Hold
with Hold(Path({run!r})):
    time.sleep(1)
    print("error: too little disk space")
sys.exit(3)
"""


def test_a_state_that_a_crash_left_is_not_taken_for_the_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_state(run / "state.json", RunState("run", created="2026-01-01T00:00:00Z", state="running", holder="old"))
    program = tmp_path / "program"
    program.write_text(HOLDS_AND_FAILS.format(python=sys.executable, run=str(run)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("ubq.jobs.detach.sys.executable", str(program))
    job = detach.start_detached(["resume", "run"], run, wait=600)
    assert (job.exit_code, job.started) == (3, False)
    assert "too little disk space" in job.output
