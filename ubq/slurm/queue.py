"""Slurm's own commands: hand a job in, look it up, take it out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ubq.errors import UbqError, UsageError
from ubq.i18n import gettext as _
from ubq.plaintext import printable

PATIENCE_S = 30.0
"""How long one of Slurm's commands may take: its controller may be busy."""
_ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)


@dataclass(frozen=True)
class Job:
    """A job as Slurm's queue shows it."""

    id: str
    state: str = ""
    """In Slurm's word, ``PENDING``, ``RUNNING``, ...; empty where the queue has forgotten it or cannot be asked."""
    reason: str = ""
    """Why it waits."""
    nodes: str = ""
    partition: str = ""

    @property
    def queued(self) -> bool:
        """Whether it runs, or waits to."""
        return bool(self.state) and self.state not in _ENDED


def look_up(job: str) -> Job:
    """A job by its id."""
    asked = ("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r|%N|%P")
    try:
        lines = _run(asked).splitlines()
    except UbqError:
        return Job(job)
    fields = printable(lines[0]).split("|") if lines else []
    if len(fields) != 4:
        return Job(job)
    state, reason, nodes, partition = fields
    return Job(job, state, "" if reason == "None" else reason, nodes, partition)


def check_installed(otherwise: str) -> None:
    """Raise where no job can be handed in.

    Args:
        otherwise: the command that helps.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(
            _("there is no sbatch here: Slurm is not installed, or not on the PATH"),
            _("write the script and hand it in where there is: {command}").format(command=otherwise),
        )


def hand_in(script: Path) -> str:
    """Submit a batch script; returns the job's id.

    Raises:
        UsageError: there is no ``sbatch``, or it refuses the script.
    """
    return _run(("sbatch", "--parsable", str(script))).split(";")[0].strip()


def keep_out(job: str) -> None:
    """Have Slurm not requeue a job, whatever ends it."""
    _run(("scontrol", "update", f"JobId={job}", "Requeue=0"))


def tell(job: str, signal: str, script_too: bool = False) -> None:
    """Send a signal to the processes of a running job, and to its batch script where that is to go, too."""
    _run(("scancel", f"--signal={signal}", *(["--full"] if script_too else []), job))


def take_out(job: str) -> None:
    """Cancel a job."""
    _run(("scancel", job))


def _run(command: Sequence[str]) -> str:
    """What one of Slurm's commands prints.

    Raises:
        UsageError: it is missing, does not answer, or fails; with its own words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S)
    except FileNotFoundError:
        raise UsageError(_("there is no {program} here").format(program=command[0])) from None
    except subprocess.TimeoutExpired:
        raise UbqError(_("Slurm does not answer: {program}").format(program=command[0])) from None
    if done.returncode:
        words = [line.partition("error: ")[2] or line for line in done.stderr.splitlines() if line.strip()]
        why = words[-1] if words else str(done.returncode)
        raise UsageError(_("{program}: {error}").format(program=command[0], error=printable(why)))
    return done.stdout
