"""``ubq submit``: hand a run to Slurm, or a command in parts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ubq.cli.completion import run_names
from ubq.cli.jobs import load_typed, typed_values
from ubq.cli.named import with_named_options
from ubq.cli.options import Assignments, Json, NewRunsDir, NoPreflight, PresetName, ProjectFile, Yes
from ubq.cli.output import say, say_json
from ubq.config import runs as places
from ubq.config.runs import command, run_command
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.slurm.submit import Submitted

IN_PARTS = (["data", "forward"], ["data", "synth"], ["sample"])
"""Commands that take ``--shard``."""
JOB = "Slurm"


@with_named_options
def submit(
    options: dict[str, object],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=run_names,
            metavar="[RUN] | -- COMMAND",
            help="A run's name: with --preset a new one, else one that is there, the newest when absent.",
        ),
    ] = None,
    preset: PresetName = None,
    project: ProjectFile = None,
    assignments: Assignments = None,
    runs_dir: NewRunsDir = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Machines.", rich_help_panel=JOB)] = None,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(
            "--gpus-per-node", min=0, help="GPUs of each machine, with a process for each.", rich_help_panel=JOB
        ),
    ] = None,
    cpus_per_task: Annotated[
        int | None,
        typer.Option("--cpus-per-task", min=1, help="Processor cores of each process.", rich_help_panel=JOB),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="H:M:S", help="Time limit of the job.", rich_help_panel=JOB),
    ] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", help="Partition of the cluster.", rich_help_panel=JOB)
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Account that is charged.", rich_help_panel=JOB)
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="KEY=VALUE", help="Another option of sbatch.", rich_help_panel=JOB),
    ] = None,
    array: Annotated[
        int | None,
        typer.Option("--array", min=1, metavar="N", help="Do a command in N parts, each a job.", rich_help_panel=JOB),
    ] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Write the batch script and print it; submit nothing.", rich_help_panel=JOB)
    ] = False,
    yes: Yes = False,
    no_preflight: NoPreflight = False,
    as_json: Json = False,
) -> None:
    """Hand a run to Slurm. When it is preempted or out of time, it is saved and goes on later.

    ubq status shows the job, ubq stop ends it for good. What a run's job asked for is kept for its next one.
    With --array 8 -- data forward --velocity DIR --out DIR, Slurm works on one command in eight parts.
    """
    from ubq.slurm.queue import check_installed
    from ubq.slurm.request import parse_options

    if not print_only:
        typed = sys.argv[sys.argv.index("submit") + 1 :] if "submit" in sys.argv else []
        check_installed(command("ubq", "submit", "--print", *typed))
    asked = {
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "cpus_per_task": cpus_per_task,
        "time": time,
        "partition": partition,
        "account": account,
        "more": None if sbatch is None else parse_options(sbatch),
    }
    words = words or []
    if array or len(words) > 1:
        done = _in_parts(words, array, places.runs_dir(runs_dir), asked, not print_only)
        return _show(done, None, as_json)
    options |= {"--run": words[0] if words else None, "--runs-dir": str(runs_dir) if runs_dir is not None else None}
    if options["--nproc"] and gpus_per_node and options["--nproc"] != gpus_per_node:
        raise UsageError(
            _("--nproc {nproc} does not fit --gpus-per-node {gpus}: each GPU has one process").format(
                nproc=options["--nproc"], gpus=gpus_per_node
            ),
            _("leave --nproc out"),
        )
    from ubq.slurm.record import read_record
    from ubq.slurm.request import Request
    from ubq.slurm.submit import submit_run
    from ubq.stages.paths import RunPaths

    if preset or project:
        loaded = load_typed(preset, assignments or [], project, options)
        config, name, provenance = loaded.config, loaded.preset, loaded.provenance
        paths = RunPaths(Path(config.run.dir) / (config.run.name or "run"))
    else:
        from ubq.jobs.frozen import load_frozen
        from ubq.jobs.status import find_run

        paths = RunPaths(find_run(words[0] if words else None, places.runs_dir(runs_dir)))
        overrides = typed_values(assignments or [], {**options, "--run": None, "--runs-dir": None})
        config, name = load_frozen(paths, overrides), ""
        provenance = {key: f"--set {key}" for key in overrides}
    record = read_record(paths.root)
    request = (record.request if record else Request()).changed(asked)
    done = submit_run(
        config,
        paths,
        name,
        request,
        provenance=provenance,
        yes=yes,
        preflight=not no_preflight,
        hand=not print_only,
    )
    _show(done, paths.root, as_json)


def _in_parts(words: list[str], parts: int | None, folder: Path, asked: dict[str, Any], hand: bool) -> Submitted:
    from ubq.slurm.request import Request
    from ubq.slurm.submit import submit_parts

    names = next((names for names in IN_PARTS if words[: len(names)] == names), None)
    if names is None:
        raise UsageError(
            _("{command} is not done in parts").format(command=command("ubq", *words)),
            _("these are: {commands}").format(commands=", ".join(" ".join(names) for names in IN_PARTS)),
        )
    if not parts:
        example = command("ubq", "submit", "--array", "8", "--", *words)
        raise UsageError(_("into how many parts?"), _("say it: {command}").format(command=example))
    _check_options(words, names)
    return submit_parts("-".join(names), words, parts, folder, Request().changed(asked), hand)


def _check_options(words: list[str], names: list[str]) -> None:
    """Raise where a command would not understand its options: now, and not when the job begins."""
    from ubq.cli import app

    click_command: Any = typer.main.get_command(app)
    for name in names:
        click_command = click_command.get_command(None, name)
    click_command.make_context(command("ubq", *names), [*words[len(names) :], "--shard", "1/1"])


def _show(done: Submitted, run: Path | None, as_json: bool) -> None:
    """What was written and submitted."""
    name = run.absolute().name if run is not None else None
    if as_json:
        return say_json({"run": name, "job": done.job or None, "script": str(done.script)})
    if not done.job:
        say(done.text, end="")
        return say(_("hand it in with: {command}").format(command=command("sbatch", str(done.script))), err=True)
    say(_("job {job}: {script}").format(job=done.job, script=done.script))
    if run is not None:
        say(_("follow it with: {command}").format(command=run_command("status", run)), err=True)
    else:
        say(_("follow it with: {command}").format(command=command("squeue", "--jobs", done.job)), err=True)
