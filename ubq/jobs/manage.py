"""Renaming and deleting runs: never one that a process works on."""

from __future__ import annotations

import shutil
from pathlib import Path

from ubq.config.runs import run_command
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.jobs.owner import alive, held_by, read_owner, settle


def rename_run(run: Path, name: str) -> Path:
    """Give a run another name; what it refers to within itself goes by its folder.

    Returns:
        Its folder now.

    Raises:
        HeldError: a process works on it.
        UsageError: the name is taken or no folder name, or the folder cannot be renamed.
    """
    _idle(run)
    if not name or "/" in name or name.startswith("."):
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

    Raises:
        HeldError: a process works on it.
        UsageError: the folder cannot be deleted, or not all of it.
    """
    _idle(run)
    try:
        if run.is_symlink():
            run.unlink()  # what it leads to lies elsewhere, and may be shared
        else:
            shutil.rmtree(run)
    except OSError as error:
        raise UsageError(
            _("{path} cannot be deleted: {error}").format(path=error.filename or run, error=error.strerror or error)
        ) from error


def _idle(run: Path) -> None:
    settle([run])
    owner = read_owner(run)
    if owner is not None and alive(owner, run):
        error = held_by(run, owner)
        error.fix = run_command("stop", run)
        raise error
