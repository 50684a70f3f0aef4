"""``slurm.json`` in a run's folder: the job it was last handed to Slurm as."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.config.runs import run_command, values_set
from ubq.durable import dump_json, read_object, write_atomic
from ubq.errors import HeldError
from ubq.i18n import gettext as _
from ubq.jobs.owner import held_by, holder
from ubq.jobs.state import now
from ubq.slurm.queue import Job, look_up
from ubq.slurm.request import Request

if TYPE_CHECKING:
    from ubq.jobs.status import Snapshot

RECORD, SCRIPT = "slurm.json", "slurm.sh"


@dataclass(frozen=True)
class Record:
    """What was submitted, and when."""

    job: str
    request: Request = field(default_factory=Request)
    submitted: str = field(default_factory=now)


def write_record(run: Path, record: Record) -> None:
    """Keep the job of a run."""
    write_atomic(run / RECORD, dump_json(asdict(record), indent=1))


def read_record(run: Path) -> Record | None:
    """The job that a run was last submitted as; ``None`` where it never was."""
    raw = read_object(run / RECORD)
    job = raw.get("job")
    if not isinstance(job, str) or not job.isdecimal():
        return None
    return Record(job, Request.from_dict(raw.get("request")), str(raw.get("submitted", "")))


def job_of(run: Path) -> Job | None:
    """A run's job as Slurm has it now; ``None`` where the run was never submitted."""
    record = read_record(run)
    return None if record is None else look_up(record.job)


def check_free(run: Path) -> None:
    """Raise where a run is running, or in Slurm's queue.

    Raises:
        HeldError: it is.
    """
    owner = holder(run)
    if owner is not None:
        raise held_by(run, owner)
    job = job_of(run)
    if job is not None and job.queued:
        raise HeldError(
            _("run {run} is in Slurm's queue, as job {job}").format(run=run.name, job=job.id),
            _("take it out with: {command}").format(command=run_command("stop", run)),
        )


def as_dict(run: Path, job: Job | None) -> dict[str, Any] | None:
    """``slurm`` of ``ubq status --json``."""
    if job is None:
        return None
    return {**asdict(job), "queued": job.queued, "script": str(run / SCRIPT), "log": str(log_of(run, job))}


def next_command(shot: Snapshot, job: Job | None) -> str:
    """What to type next of a run: a queued job goes on by itself, another run of Slurm's is submitted again."""
    command = shot.state.next_command
    if job is None or not command:
        return command
    return "" if job.queued else run_command("submit", shot.paths.root, *values_set(command))


def log_of(run: Path, job: Job) -> Path:
    """Where what a job prints goes."""
    return run / f"slurm-{job.id}.out"
