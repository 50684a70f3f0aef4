"""``ubq run``, ``resume``, ``status``, ``runs``, ``logs``, ``attach``, ``stop``."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ubq.errors import EXIT_OK, EXIT_STAGE_FAILED, UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.load import Loaded
    from ubq.jobs.plan import Planned
    from ubq.jobs.state import StageState
    from ubq.jobs.status import Snapshot

RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's name or folder; the newest when absent.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the runs.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
NoPreflight = Annotated[bool, typer.Option("--no-preflight", help="Do not check disk, memory, data and device first.")]
Detach = Annotated[bool, typer.Option("--detach", help="Run in the background, in a session of its own.")]

_DATA = "Data and model"
_QAT = "Quantisation-aware training"
_QUANT = "Quantisation"
_RUN = "Run"


def run(
    preset: Annotated[str | None, typer.Option("--preset", help="Preset to build on; see ubq presets list.")] = None,
    project: Annotated[Path | None, typer.Option("--config", help="Project file instead of ./ubq.toml.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one configuration key.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Name of the run; default: the preset's.")
    ] = None,
    runs_dir: Annotated[
        Path | None, typer.Option("--runs-dir", help="Folder that holds the runs; default: runs.")
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="STAGE", help="This stage alone, from the files that are there.")
    ] = "",
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="No stage after this one.")] = "",
    force: Annotated[
        str, typer.Option("--force", metavar="STAGE", help="Run this stage and what depends on it again.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what each stage would do and why; change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON object on stdout.")] = False,
    detach: Detach = False,
    no_preflight: NoPreflight = False,
    train_data: Annotated[
        str | None, typer.Option("--train-data", help="Training shot gathers: file or folder.", rich_help_panel=_DATA)
    ] = None,
    train_label: Annotated[
        str | None, typer.Option("--train-label", help="Training velocity maps.", rich_help_panel=_DATA)
    ] = None,
    val_data: Annotated[
        str | None, typer.Option("--val-data", help="Held-out shot gathers.", rich_help_panel=_DATA)
    ] = None,
    val_label: Annotated[
        str | None, typer.Option("--val-label", help="Held-out velocity maps.", rich_help_panel=_DATA)
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="OpenFWI data set, as curvefault-a.", rich_help_panel=_DATA)
    ] = None,
    pretrained_path: Annotated[
        str | None,
        typer.Option("--pretrained-path", help="Checkpoint to import instead of pretraining.", rich_help_panel=_DATA),
    ] = None,
    decoder_checkpoint: Annotated[
        str | None,
        typer.Option(
            "--decoder-checkpoint",
            help="Decoders to use instead: final_qat_decoders.pt of another run, or an upstream checkpoint.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_DATA)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Epochs of both QAT stages; 0: calibrate only.", rich_help_panel=_QAT)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Batch size of both QAT stages.", rich_help_panel=_QAT)
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate of both QAT stages.", rich_help_panel=_QAT)
    ] = None,
    decoder_batch_size: Annotated[
        int | None, typer.Option("--decoder-batch-size", help="Batch size of qat-decoders.", rich_help_panel=_QAT)
    ] = None,
    diffusion_batch_size: Annotated[
        int | None, typer.Option("--diffusion-batch-size", help="Batch size of qat-diffusion.", rich_help_panel=_QAT)
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            help="Integer engine: qnnpack (Raspberry Pi), x86, fbgemm, onednn.",
            rich_help_panel=_QUANT,
        ),
    ] = None,
    convert_conv1d: Annotated[
        bool | None,
        typer.Option("--convert-conv1d/--no-convert-conv1d", help="Rewrite Conv1d as Conv2d.", rich_help_panel=_QUANT),
    ] = None,
    aggressive: Annotated[
        bool | None,
        typer.Option(
            "--use-aggressive-quantization/--no-use-aggressive-quantization",
            help="One scale a channel and searched ranges.",
            rich_help_panel=_QUANT,
        ),
    ] = None,
    velocity: Annotated[
        bool | None,
        typer.Option(
            "--quantize-velocity/--no-quantize-velocity", help="The velocity decoder.", rich_help_panel=_QUANT
        ),
    ] = None,
    seismic: Annotated[
        bool | None,
        typer.Option("--quantize-seismic/--no-quantize-seismic", help="The seismic decoder.", rich_help_panel=_QUANT),
    ] = None,
    diffusion: Annotated[
        bool | None,
        typer.Option(
            "--quantize-diffusion/--no-quantize-diffusion", help="The diffusion U-Net.", rich_help_panel=_QUANT
        ),
    ] = None,
    force_quantization: Annotated[
        bool,
        typer.Option(
            "--force-quantization",
            help="Leave no layer in float: no keep_float, no quality budget.",
            rich_help_panel=_QUANT,
        ),
    ] = False,
    test_generation: Annotated[
        bool,
        typer.Option(
            "--test-generation",
            help="Sample the exported file in a fresh process; always done, by the stage verify.",
            rich_help_panel=_QUANT,
        ),
    ] = False,
) -> None:
    """Run the pipeline, or go on with it: only what is not up to date runs.

    The same command again resumes an interrupted run; a changed value runs again only the stages that depend
    on it. --dry-run says which, and why.
    """
    options: dict[str, object] = {
        "--train-data": train_data,
        "--train-label": train_label,
        "--val-data": val_data,
        "--val-label": val_label,
        "--dataset": dataset,
        "--pretrained-path": pretrained_path,
        "--decoder-checkpoint": decoder_checkpoint,
        "--device": device,
        "--epochs": epochs,
        "--batch-size": batch_size,
        "--lr": lr,
        "--decoder-batch-size": decoder_batch_size,
        "--diffusion-batch-size": diffusion_batch_size,
        "--backend": backend,
        "--convert-conv1d": convert_conv1d,
        "--use-aggressive-quantization": aggressive,
        "--quantize-velocity": velocity,
        "--quantize-seismic": seismic,
        "--quantize-diffusion": diffusion,
        "--run": name,
        "--runs-dir": str(runs_dir) if runs_dir is not None else None,
    }
    loaded = _load(preset, assignments or [], project, options, force_quantization)
    from ubq.jobs import run as runner
    from ubq.jobs.plan import Selection
    from ubq.stages.paths import RunPaths

    paths = RunPaths(Path(loaded.config.run.dir) / (loaded.config.run.name or "run"))
    selection = Selection(only, until, force)
    if dry_run or detach:
        planned = runner.dry_run(loaded.config, paths, preset=loaded.preset, selection=selection)
        if dry_run:
            _show_plan(paths, planned, as_json)
            return
    if detach:
        raise typer.Exit(_detached(paths.root))
    raise typer.Exit(
        runner.start_run(loaded.config, paths, preset=loaded.preset, selection=selection, preflight=not no_preflight)
    )


def _load(
    preset: str | None, assignments: list[str], project: Path | None, options: dict[str, object], force: bool
) -> Loaded:
    """The configuration with the options that were typed on top."""
    from ubq.config.flags import typed
    from ubq.config.load import Given, load_config, parse_assignments

    overrides = {**parse_assignments(assignments), **typed(options)}
    if force:
        overrides |= {
            "quant.keep_float": Given([], "--force-quantization"),
            "quant.max_quality_loss": Given(0.0, "--force-quantization"),
        }
    return load_config(preset, overrides, project)


def _show_plan(paths: Any, planned: list[Planned], as_json: bool) -> None:
    if as_json:
        _print_json({"run": paths.root.name, "stages": [p.as_dict() for p in planned]})
        return
    width = max((len(p.name) for p in planned), default=0)
    for item in planned:
        action = item.action if item.action != "resume" else _("resume at step {step}").format(step=item.step)
        why = f"  ({'; '.join(item.reasons)})" if item.reasons else ""
        typer.echo(f"{item.name:<{width}}  {action}{why}")


def _detached(run_folder: Path) -> int:
    """Start this very command line in the background and report its preflight."""
    from ubq.jobs.detach import start_detached
    from ubq.jobs.status import command_line, snapshot

    arguments = [a for a in sys.argv[1:] if a != "--detach"]
    job = start_detached(arguments, run_folder)
    if job.exit_code:
        typer.echo(job.output.rstrip(), err=True)
        return job.exit_code
    if job.exit_code == EXIT_OK:
        typer.echo(job.output.rstrip())
    elif job.started:
        for check in snapshot(run_folder).state.preflight:
            if check.get("status") != "ok":
                typer.echo(f"{check['status']}: {check['figure']}. {check['fix']}".rstrip(), err=True)
        typer.echo(_("preflight passed; process {pid}").format(pid=job.pid))
    else:
        typer.echo(_("still in its preflight; process {pid}").format(pid=job.pid))
    typer.echo(run_folder.name)
    if job.exit_code is None:
        typer.echo(_("follow it with: {command}").format(command=command_line("attach", run_folder)), err=True)
    return EXIT_OK


def resume(
    run: RunName = None,
    runs_dir: RunsDir = Path("runs"),
    detach: Detach = False,
    no_preflight: NoPreflight = False,
) -> None:
    """Go on with a run from its last checkpoint, with the configuration it was started with."""
    from ubq.jobs.status import find_run

    folder = find_run(run, runs_dir)
    if detach:
        raise typer.Exit(_detached(folder))
    from ubq.jobs.run import resume_run
    from ubq.stages.paths import RunPaths

    raise typer.Exit(resume_run(RunPaths(folder), preflight=not no_preflight))


def status(
    run: RunName = None,
    runs_dir: RunsDir = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """How far a run is: stages, losses, last checkpoint, who runs it, what to do next."""
    from ubq.jobs.status import find_run, snapshot

    folder = find_run(run, runs_dir)
    if as_json:
        _print_json(snapshot(folder).as_dict())
        return
    if not watch:
        typer.echo(describe(snapshot(folder)))
        return
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            shot = snapshot(folder)
            clear = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
            typer.echo(clear + describe(shot))
            if not shot.running:
                return
            time.sleep(1.0)


def describe(shot: Snapshot) -> str:
    """A run's status for people, several lines."""
    state = shot.state
    head = f"{state.run}: {shot.shown}"
    if state.preset and state.preset != state.run:
        head += " " + _("(preset {preset})").format(preset=state.preset)
    lines = [head]
    if shot.problem:
        lines.append(shot.problem)
    width = max((len(s.name) for s in state.stages), default=0)
    for stage in state.stages:
        lines.append("  " + _stage_line(stage, width, shot))
        if stage.notes:  # the last one says how the stage goes on
            text = _("out of memory at step {step}: went on with {part_size} samples at a time")
            lines.append(" " * (width + 4) + text.format(**{"step": "?", "part_size": "?"} | stage.notes[-1]))
    if state.error:
        where = f"{state.error.get('stage')}: " if state.error.get("stage") else ""
        lines.append(_("error: {error}").format(error=where + str(state.error.get("message"))))
        if state.error.get("fix"):
            lines.append(f"  {state.error['fix']}")
    if shot.owner:
        owner = shot.owner
        lines.append(
            _("process {pid} on {host} since {since}").format(pid=owner.pid, host=owner.host, since=owner.since)
        )
    elif shot.shown == "crashed":
        lines.append(_("its process is gone without saving; it goes on from the last checkpoint"))
    exported = [a for a in state.artifacts if str(a.get("path")).startswith("exported")]
    lines += [f"{shot.paths.root / a['path']}  {_size(a.get('bytes'))}" for a in exported]
    if state.next_command and not shot.running:
        lines.append(_("next: {command}").format(command=state.next_command))
    return "\n".join(lines)


def _stage_line(stage: StageState, width: int, shot: Snapshot) -> str:
    from ubq.jobs.console import duration, figures
    from ubq.jobs.status import percent

    shown = "crashed" if stage.state == "running" and shot.shown == "crashed" else stage.state
    parts = [f"{stage.name:<{width}}  {shown:<11}"]
    if stage.steps:
        parts.append(f"{stage.step}/{stage.steps} {percent(stage.step, stage.steps, stage.state):.0f} %")
    if stage.state == "completed":
        if stage.loss is not None:
            parts.append(f"loss {stage.loss:.4g}")
        parts.append(duration(stage.seconds))
    elif stage.state != "pending":
        parts.append(figures(stage))
    if stage.best_loss is not None:
        parts.append(_("best {loss:.4g}").format(loss=stage.best_loss))
    if stage.last_checkpoint is not None and stage.state != "completed":
        parts.append(_("checkpoint {step}").format(step=stage.last_checkpoint))
    return "  ".join(p for p in parts if p).rstrip()


def _size(count: object) -> str:
    if not isinstance(count, int):
        return ""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def runs(runs_dir: RunsDir = Path("runs"), as_json: Json = False) -> None:
    """List the runs, newest first."""
    from ubq.jobs.status import percent, run_folders, snapshot

    shots = [snapshot(folder) for folder in run_folders(runs_dir)]
    rows = []
    for shot in shots:
        current = next((s for s in shot.state.stages if s.state != "completed"), None)
        rows.append(
            {
                "run": shot.paths.root.name,
                "state": shot.shown,
                "preset": shot.state.preset,
                "stage": current.name if current else "",
                "percent": percent(current.step, current.steps, current.state) if current else 100.0,
                "updated": shot.state.updated,
                "folder": str(shot.paths.root),
            }
        )
    if as_json:
        _print_json({"runs": rows})
        return
    if not rows:
        typer.echo(_("there is no run in {folder}").format(folder=runs_dir), err=True)
        return
    width = max(len(str(r["run"])) for r in rows)
    for row in rows:
        where = f"{row['stage']} {row['percent']:.0f} %" if row["stage"] else ""
        typer.echo(f"{row['run']:<{width}}  {row['state']:<11}  {row['updated']}  {where}".rstrip())


def logs(
    run: RunName = None,
    runs_dir: RunsDir = Path("runs"),
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
) -> None:
    """Print a run's log."""
    from ubq.jobs.detach import follow_log
    from ubq.jobs.status import find_run, snapshot

    folder = find_run(run, runs_dir)
    with contextlib.suppress(KeyboardInterrupt):
        for line in follow_log(folder / "run.log", lambda: not follow or not snapshot(folder).running):
            typer.echo(line)


def attach(run: RunName = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Follow a running job: its log and its progress. Ctrl-C leaves the job running."""
    from ubq.jobs.console import console_for
    from ubq.jobs.detach import follow_log
    from ubq.jobs.status import command_line, find_run, snapshot

    folder = find_run(run, runs_dir)
    if not snapshot(folder).running:
        typer.echo(describe(snapshot(folder)))
        return
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
        typer.echo(_("the job goes on; stop it with: {command}").format(command=command_line("stop", folder)), err=True)
        return
    finally:
        console.close()
    shot = snapshot(folder)
    code = shot.state.exit_code
    raise typer.Exit(EXIT_STAGE_FAILED if code is None else code)


def stop(
    run: RunName = None,
    runs_dir: RunsDir = Path("runs"),
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the save; the last checkpoint stands.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the save.")] = 600.0,
) -> None:
    """Stop a running job: it finishes its step, saves, and can be resumed."""
    from ubq.jobs.detach import stop_run
    from ubq.jobs.status import command_line, find_run, snapshot

    folder = find_run(run, runs_dir)
    if not stop_run(folder, now, timeout, tell=lambda message: typer.echo(message, err=True)):
        raise UsageError(
            _("run {run} is not running").format(run=folder.name),
            _("see: {command}").format(command=command_line("status", folder)),
        )
    typer.echo(describe(snapshot(folder)))


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
