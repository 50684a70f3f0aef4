"""``ubq run``, ``resume``, ``status``, ``runs``, ``logs``, ``attach``, ``stop``."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ubq.cli.completion import run_names
from ubq.cli.named import with_named_options
from ubq.cli.options import (
    GROUP,
    HERE,
    Assignments,
    Detach,
    DryRun,
    Force,
    Json,
    NewRunsDir,
    Nnodes,
    NoPreflight,
    PresetName,
    ProjectFile,
    Rendezvous,
    RunName,
    RunsDir,
    Yes,
)
from ubq.cli.output import say, say_json
from ubq.errors import EXIT_OK, EXIT_STAGE_FAILED, UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from collections.abc import Callable

    from ubq.config.load import Loaded
    from ubq.config.schema import Config
    from ubq.jobs.plan import Planned
    from ubq.jobs.status import Snapshot
    from ubq.slurm.queue import Job

QUEUE_S = 10.0
"""Slurm's controller serves the whole cluster: ``status --watch`` asks it no more often."""


@with_named_options
def run(
    options: dict[str, object],
    preset: PresetName = None,
    project: ProjectFile = None,
    assignments: Assignments = None,
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Name of the run; default: the preset's.")
    ] = None,
    runs_dir: NewRunsDir = None,
    only: Annotated[
        str, typer.Option("--only", metavar="STAGE", help="This stage alone, from the files that are there.")
    ] = "",
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="No stage after this one.")] = "",
    force: Force = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON object on stdout.")] = False,
    detach: Detach = False,
    no_preflight: NoPreflight = False,
    nnodes: Nnodes = "1",
    rdzv_endpoint: Rendezvous = "",
) -> None:
    """Run the pipeline, or go on with it: only what is not up to date runs.

    The same command again resumes an interrupted run; a changed value runs again only the stages that depend
    on it. --dry-run says which, and why.
    """
    options |= {"--run": name, "--runs-dir": str(runs_dir) if runs_dir is not None else None}
    loaded = load_typed(preset, assignments or [], project, options)
    from ubq.jobs import run as runner
    from ubq.jobs.plan import Selection
    from ubq.stages.paths import RunPaths

    paths = RunPaths(Path(loaded.config.run.dir) / (loaded.config.run.name or "run"))
    selection = Selection(only, until, force, yes)
    if dry_run or detach:
        planned = runner.dry_run(loaded.config, paths, preset=loaded.preset, selection=selection)
        if dry_run:
            return _show_plan(paths.root.name, planned, as_json)
    if detach:
        raise typer.Exit(_detached(paths.root))
    _start_together(loaded.config, paths.root, nnodes, rdzv_endpoint, lambda: runner.dry_run(loaded.config, paths))
    raise typer.Exit(
        runner.start_run(
            loaded.config,
            paths,
            preset=loaded.preset,
            selection=selection,
            preflight=not no_preflight,
            provenance=loaded.provenance,
        )
    )


def load_typed(preset: str | None, assignments: list[str], project: Path | None, options: dict[str, object]) -> Loaded:
    """The configuration with the options that were typed on top."""
    from ubq.config.load import load_config

    return load_config(preset, typed_values(assignments, options), project)


def typed_values(assignments: list[str], options: dict[str, object]) -> dict[str, object]:
    """The values that were typed, by ``--set`` and by named options."""
    from ubq.config.flags import typed
    from ubq.config.load import Given, parse_assignments

    overrides = {**parse_assignments(assignments), **typed(options)}
    if options["--force-quantization"]:
        overrides |= {
            "quant.keep_float": Given([], "--force-quantization"),
            "quant.max_quality_loss": Given(0.0, "--force-quantization"),
        }
    return overrides


def _show_plan(run: str, planned: list[Planned], as_json: bool) -> None:
    from ubq.cli.describe import plan_text

    if as_json:
        say_json({"run": run, "stages": [p.as_dict() for p in planned]})
    else:
        say(plan_text(planned))


def _start_together(
    config: Config, run_folder: Path, nnodes: str, endpoint: str, check: Callable[[], object] = lambda: None
) -> None:
    """Where several processes are wanted and this is none of them: start them, with this very command line, and exit.

    Raises:
        UbqError: the run is held, or cannot start; found out before anything is started.
    """
    from ubq.jobs import ranks
    from ubq.jobs.owner import held_by, holder

    settings = config.distributed
    if ranks.in_group() or (settings.nproc == 1 and nnodes == "1"):
        return
    if nnodes != "1" and not endpoint:
        raise UsageError(
            _("several machines have to meet somewhere"),
            _("give --rdzv-endpoint HOST:PORT of one of them, the same on each"),
        )
    check()
    owner = holder(run_folder)
    if nnodes == "1" and owner is not None:  # of several machines, one may be ahead
        raise held_by(run_folder, owner)
    command = ranks.torchrun_command(sys.argv[1:], settings.nproc, nnodes, endpoint, settings.restarts)
    raise typer.Exit(ranks.launch(command, run_folder))


def _detached(run_folder: Path) -> int:
    """Start this very command line in the background and report its preflight."""
    from ubq.config.runs import run_command
    from ubq.jobs.detach import start_detached
    from ubq.jobs.status import snapshot
    from ubq.states import check_word

    arguments = [a for a in sys.argv[1:] if a != "--detach"]
    job = start_detached(arguments, run_folder)
    if job.exit_code:
        say(job.output.rstrip(), err=True)
        return job.exit_code
    if job.exit_code == EXIT_OK:
        say(job.output.rstrip())
    elif job.started:
        for check in snapshot(run_folder).state.preflight:
            if check.get("status") != "ok":
                say(f"{check_word(check['status'])}: {check['figure']}. {check['fix']}".rstrip(), err=True)
        say(_("preflight passed; process {pid}").format(pid=job.pid))
    else:
        say(_("still in its preflight; process {pid}").format(pid=job.pid))
    say(run_folder.name)
    if job.exit_code is None:
        say(_("follow it with: {command}").format(command=run_command("attach", run_folder)), err=True)
    return EXIT_OK


def resume(
    run: RunName = None,
    runs_dir: RunsDir = HERE,
    assignments: Assignments = None,
    force: Force = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON object on stdout.")] = False,
    detach: Detach = False,
    no_preflight: NoPreflight = False,
    nproc: Annotated[
        int | None,
        typer.Option("--nproc", min=1, help="Processes on this machine that train together.", rich_help_panel=GROUP),
    ] = None,
    nnodes: Nnodes = "1",
    rdzv_endpoint: Rendezvous = "",
) -> None:
    """Go on with a run from its last checkpoint, with the configuration it was started with.

    --set changes a value of it; what depends on the value runs again. --dry-run says which stages, and why.
    """
    from ubq.config.load import parse_assignments
    from ubq.jobs.status import find_run

    several = [f"distributed.nproc={nproc}"] if nproc else []
    folder, overrides = find_run(run, runs_dir), parse_assignments([*(assignments or []), *several])
    if detach:
        raise typer.Exit(_detached(folder))
    from ubq.jobs import run as runner
    from ubq.jobs.frozen import load_frozen
    from ubq.jobs.plan import Selection
    from ubq.stages.paths import RunPaths

    paths, selection = RunPaths(folder), Selection(force=force, yes=yes)
    if dry_run:
        planned = runner.dry_run(load_frozen(paths, overrides), paths, selection=selection)
        return _show_plan(folder.name, planned, as_json)
    _start_together(load_frozen(paths, overrides), folder, nnodes, rdzv_endpoint)
    raise typer.Exit(runner.resume_run(paths, overrides=overrides, selection=selection, preflight=not no_preflight))


def status(
    run: RunName = None,
    runs_dir: RunsDir = HERE,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """How far a run is: stages, losses, last checkpoint, who runs it, what to do next."""
    from ubq.cli.describe import describe
    from ubq.jobs.owner import settle
    from ubq.jobs.status import find_run
    from ubq.slurm.record import as_dict

    folder = find_run(run, runs_dir)
    settle([folder], _say_aside)
    if as_json:
        shot, job = _look(folder)
        return say_json({**shot.as_dict(), "slurm": as_dict(folder, job)})
    if not watch:
        return say(describe(*_look(folder)))
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            shot, job = _look(folder)
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[H\x1b[J")
            say(describe(shot, job))
            if not shot.running and (job is None or not job.queued):
                return
            time.sleep(1.0 if job is None else QUEUE_S)


def _look(folder: Path) -> tuple[Snapshot, Job | None]:
    """A run now, and its job where it is one of Slurm's."""
    from ubq.jobs.status import snapshot
    from ubq.slurm.record import job_of, next_command

    job, shot = job_of(folder), snapshot(folder)
    shot.state.next_command = next_command(shot, job)
    return shot, job


def runs(runs_dir: RunsDir = HERE, as_json: Json = False) -> None:
    """List the runs, newest first."""
    from ubq.cli.describe import rows_text, run_row
    from ubq.jobs.owner import settle
    from ubq.jobs.status import run_folders, snapshot

    folders = run_folders(runs_dir)
    settle(folders, _say_aside)
    rows = []
    for folder in folders:
        with contextlib.suppress(UsageError):  # it went away meanwhile
            rows.append(run_row(snapshot(folder)))
    if as_json:
        say_json({"runs": rows})
    elif rows:
        say(rows_text(rows))
    else:
        say(_("there is no run in {folder}").format(folder=runs_dir), err=True)


def logs(
    run: RunName = None,
    runs_dir: RunsDir = HERE,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
) -> None:
    """Print a run's log."""
    from ubq.jobs.detach import follow_log
    from ubq.jobs.status import find_run, snapshot

    folder = find_run(run, runs_dir)
    with contextlib.suppress(KeyboardInterrupt):
        for line in follow_log(folder / "run.log", lambda: not follow or not snapshot(folder).running):
            say(line.removesuffix("\r"))


def attach(run: RunName = None, runs_dir: RunsDir = HERE) -> None:
    """Follow a running job: its log and its progress. Ctrl-C leaves the job running."""
    from ubq.cli.describe import describe
    from ubq.config.runs import run_command
    from ubq.jobs.console import console_for
    from ubq.jobs.detach import follow_log
    from ubq.jobs.owner import settle
    from ubq.jobs.status import find_run, snapshot

    folder = find_run(run, runs_dir)
    settle([folder], _say_aside)
    if not snapshot(folder).running:
        return say(describe(*_look(folder)))
    console = console_for(sys.stdout)

    def ended() -> bool:
        shot = snapshot(folder)
        current = next((s for s in shot.state.stages if s.state == "running"), None)
        if current:
            console.progress(current)
        return not shot.running

    try:
        for line in follow_log(folder / "run.log", ended):
            console.line(line)
    except KeyboardInterrupt:
        console.close()
        say(_("the job goes on; stop it with: {command}").format(command=run_command("stop", folder)), err=True)
        return
    finally:
        console.close()
    code = snapshot(folder).state.exit_code
    raise typer.Exit(EXIT_STAGE_FAILED if code is None else code)


def stop(
    run: Annotated[
        str | None,
        typer.Argument(
            autocompletion=run_names, metavar="[RUN]", help="A run's name or folder; the one that runs when absent."
        ),
    ] = None,
    runs_dir: RunsDir = HERE,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the save; the last checkpoint stands.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the save.")] = 600.0,
) -> None:
    """Stop a running job: it finishes its step, saves, and can be resumed."""
    from ubq.cli.describe import describe
    from ubq.config.runs import run_command
    from ubq.jobs.detach import stop_run
    from ubq.jobs.status import find_run, running_run
    from ubq.slurm.record import job_of
    from ubq.slurm.stop import stop_job

    def queued(folder: Path) -> bool:
        job = job_of(folder)
        return job is not None and job.queued

    folder = find_run(run, runs_dir) if run else running_run(runs_dir, queued)
    job = job_of(folder)
    if job is not None and job.queued:
        stop_job(folder, job, now, timeout, _say_aside)
    elif not stop_run(folder, now, timeout, tell=_say_aside):
        raise UsageError(
            _("run {run} is not running").format(run=folder.name),
            _("see: {command}").format(command=run_command("status", folder)),
        )
    say(describe(*_look(folder)))


def _say_aside(message: str) -> None:
    say(message, err=True)
