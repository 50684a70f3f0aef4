"""``ubq report``: a run on one page, to look at and to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ubq.cli.options import HERE, RunName, RunsDir
from ubq.cli.output import say
from ubq.config.runs import run_command
from ubq.errors import UsageError
from ubq.figures import size
from ubq.i18n import gettext as _


def report(
    run: RunName = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="HTML file to write; default: exported_models/report.html."),
    ] = None,
    runs_dir: RunsDir = HERE,
) -> None:
    """Write a run's report as one HTML page that needs nothing beside it, whatever of the run there is.

    Success marks, pairs, losses, what is int8, distributions, time and memory, configuration, files. The stage verify
    writes the same page.
    """
    from ubq.jobs.status import find_run, snapshot
    from ubq.stages.page import write_report_page
    from ubq.verify.report import PAGE

    shot = snapshot(find_run(run, runs_dir))
    file = out if out else shot.paths.exported / PAGE
    if file.is_dir():
        file = file / f"{shot.paths.root.name}.html"
    try:
        write_report_page(shot.paths, {**shot.state.as_dict(), "state": shot.shown}, file)
    except OSError as error:
        raise UsageError(
            _("{file} cannot be written: {error}").format(file=file, error=error.strerror),
            _("write it elsewhere: {command}").format(command=run_command("report", shot.paths.root, "--out", "FILE")),
        ) from error
    say(f"{file}  {size(file.stat().st_size)}")
