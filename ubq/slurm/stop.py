"""Take a run's job out of Slurm's queue for good, saved first where it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from ubq.config.runs import run_command
from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.jobs.owner import holder
from ubq.slurm.queue import Job, keep_out, look_up, take_out, tell

POLL_S = 0.5


def stop_job(run: Path, job: Job, now: bool, timeout: float, say: Callable[[str], None]) -> None:
    """Have a queued job save and end, and not be requeued; wait for it.

    Args:
        run: the run's folder.
        job: its job.
        now: do not wait for the save.
        timeout: seconds to wait for it.
        say: gets a line of what was asked.

    Raises:
        UbqError: Slurm refuses, or the job has not ended in time.
    """
    keep_out(job.id)
    if now:
        with contextlib.suppress(UbqError):  # one that waits has no process
            tell(job.id, "KILL", script_too=True)
        take_out(job.id)
    elif holder(run):
        tell(job.id, "TERM")
        say(_("asked job {job} to save and end").format(job=job.id))
    else:  # nothing to save: it waits, or has just begun
        take_out(job.id)
    end = time.monotonic() + timeout
    while look_up(job.id).queued:
        if time.monotonic() > end:
            raise UbqError(
                _("job {job} has not ended after {seconds:.0f} s").format(job=job.id, seconds=timeout),
                _("end it without saving: {command}").format(command=run_command("stop", run, "--now")),
            )
        time.sleep(POLL_S)
