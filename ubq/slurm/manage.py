"""Renaming and deleting runs: never one that a process works on, or that waits in Slurm's queue."""

from __future__ import annotations

import shutil
from pathlib import Path

from ubq.config.runs import is_run_name, run_command
from ubq.errors import HeldError, UsageError
from ubq.i18n import gettext as _
from ubq.jobs.owner import settle
from ubq.slurm.record import check_free


def rename_run(run: Path, name: str) -> Path:
    """Give a run another name; what it refers to within itself goes by its folder.

    Returns:
        Its folder now.

    Raises:
        HeldError: a process works on it, or it is queued.
        UsageError: the name is taken or no folder name, or the folder cannot be renamed.
    """
    _check_idle(run)
    if not is_run_name(name) or not name.isprintable():
        raise UsageError(_("{name} is no name of a run").format(name=name or '""'), _("a folder name without a path"))
    target = run.with_name(name)
    if target.exists():
        raise UsageError(_("{path} is there already").format(path=target), _("choose another name"))
    try:
        return run.rename(target)
    except OSError as error:
        raise UsageError(
            _("{path} cannot be renamed: {error}").format(path=run, error=error.strerror or error)
        ) from error


def delete_run(run: Path) -> None:
    """Delete a run with everything in its folder.

    It is put out of the way first: a process that begins meanwhile finds no run, and what cannot be deleted is none.

    Raises:
        HeldError: a process works on it, or it is queued.
        UsageError: the folder cannot be deleted, or not all of it.
    """
    _check_idle(run)
    away = run.with_name(f".{run.name}.deleted")
    try:
        if run.is_symlink():
            run.unlink()  # what it leads to lies elsewhere, and may be shared
            return
        shutil.rmtree(away, ignore_errors=True)  # what an earlier deletion could not take
        run.rename(away)
        try:
            _check_idle(away)
        except HeldError:
            away.rename(run)
            raise
        shutil.rmtree(away)
    except OSError as error:
        raise UsageError(
            _("{path} cannot be deleted: {error}").format(path=error.filename or run, error=error.strerror or error)
        ) from error


def _check_idle(run: Path) -> None:
    settle([run])
    try:
        check_free(run)
    except HeldError as error:
        error.fix = run_command("stop", run)
        raise
