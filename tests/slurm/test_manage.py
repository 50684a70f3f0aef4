"""Renaming and deleting runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ubq.errors import HeldError, UsageError
from ubq.jobs.owner import Hold
from ubq.slurm import record
from ubq.slurm.manage import delete_run, rename_run
from ubq.slurm.queue import Job
from ubq.slurm.record import Record, write_record


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    return folder


@pytest.mark.parametrize("change", [delete_run, lambda run: rename_run(run, "other")], ids=["delete", "rename"])
def test_a_run_that_somebody_works_on_stays(run: Path, change, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hold(run), pytest.raises(HeldError) as raised:
        change(run)
    assert raised.value.fix == f"ubq stop mine --runs-dir {run.parent}"
    write_record(run, Record("17"))
    monkeypatch.setattr(record, "look_up", lambda job: Job(job, "PENDING"))
    with pytest.raises(HeldError, match="queue"):
        change(run)
    monkeypatch.setattr(record, "look_up", lambda job: Job(job, "COMPLETED"))
    change(run)
    assert not run.exists()


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\nb", "a\0b", "taken"])
def test_what_is_no_free_name_of_a_run_is_refused(run: Path, name: str) -> None:
    (run.parent / "taken").mkdir()
    with pytest.raises(UsageError):
        rename_run(run, name)
    assert (run / "state.json").exists()


def test_a_renamed_run_keeps_its_files(run: Path) -> None:
    assert (rename_run(run, "other") / "state.json").read_text() == "{}"
    assert not run.exists()


def test_a_process_that_begins_while_a_run_is_deleted_keeps_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, Job("17", "RUNNING")])
    monkeypatch.setattr(record, "job_of", lambda folder: next(looks))
    with pytest.raises(HeldError):
        delete_run(run)
    assert (run / "state.json").exists()


def test_of_a_link_the_link_goes(run: Path) -> None:
    link = run.parent / "link"
    link.symlink_to(run)
    delete_run(link)
    assert not link.is_symlink()
    assert (run / "state.json").exists()
