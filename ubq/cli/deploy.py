"""``ubq deploy``: copy a model to a Raspberry Pi over ssh, and try it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ubq.cli.completion import run_names
from ubq.cli.options import HERE, RunsDir
from ubq.cli.output import say, say_json
from ubq.cli.progress import progress
from ubq.config.runs import expanded, run_command
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.deploy.deploy import Deployed
    from ubq.deploy.target import Target
    from ubq.export.bundle.folder import Bundle


def deploy(
    target: Annotated[str, typer.Argument(metavar="[USER@]HOST:PATH", help="Where to, such as pi@raspberrypi:ubq.")],
    source: Annotated[
        str | None,
        typer.Argument(
            autocompletion=run_names,
            metavar="[RUN|FOLDER]",
            help="A run, its exported_models or a bundle; default: the newest run.",
        ),
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="onnx, torchscript or executorch; default: the first that is installed there.")
    ] = "",
    python: Annotated[
        str, typer.Option(help="Python there; default: ~/ubq-pi/bin/python of the guide, else python3.")
    ] = "",
    smoke: Annotated[bool, typer.Option("--smoke", help="Draw a sample there: seconds, memory, temperature.")] = False,
    runs_dir: RunsDir = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Copy a model to a Raspberry Pi with your own ssh, check it there, and draw a sample with --smoke.

    An interrupted copy goes on when called again. UBQ_SSH names another ssh command, such as "ssh -p 2222".
    """
    from ubq.deploy.deploy import deploy as deploy_bundle
    from ubq.deploy.target import parse_target
    from ubq.export.runtimes import RUNTIMES

    where = parse_target(target)
    if runtime and runtime not in RUNTIMES:
        raise UsageError(_("--runtime {name}: no such runtime").format(name=runtime), ", ".join(RUNTIMES))
    bundle = bundle_of(source, runs_dir)
    offered = [r for r in bundle.runtimes if runtime in ("", r.name)]
    if not offered:
        raise UsageError(
            _("{folder} has no files for {runtime}").format(folder=bundle.folder, runtime=runtime),
            _('write them: export.formats = ["torchscript", "{runtime}"]').format(runtime=runtime),
        )
    with progress(_("copying"), _("bytes")) as show:
        done = deploy_bundle(bundle, where, offered, python, smoke, show)
    if as_json:
        say_json(_as_dict(done, where, bundle))
        return
    _print(done, where, bundle)


def bundle_of(source: str | None, runs_dir: Path) -> Bundle:
    """The bundle that a person means by a run or a folder; made anew unless the folder is one.

    Raises:
        UsageError: there is no such run or folder, or it holds no exported model.
    """
    from ubq.export.bundle.folder import SCRIPT, make_bundle, open_bundle
    from ubq.export.manifest import MANIFEST
    from ubq.jobs.status import find_run
    from ubq.stages.paths import RunPaths

    folder = Path(expanded(source)) if source else None
    if folder is not None and (folder / MANIFEST).is_file():
        return open_bundle(folder) if (folder / SCRIPT).is_file() else make_bundle(folder)
    run = find_run(source, runs_dir)
    exported = RunPaths(run).exported
    if not (exported / MANIFEST).is_file():
        raise UsageError(
            _("the run {run} has exported no model yet").format(run=run.name),
            _("go on with it: {command}").format(command=run_command("resume", run)),
        )
    return make_bundle(exported)


def _as_dict(done: Deployed, where: Target, bundle: Bundle) -> dict[str, object]:
    return {
        "target": str(where),
        "bundle": str(bundle.folder),
        "runtime": done.runtime.name,
        "files": [vars(file) for file in done.files],
        "machine": done.machine.as_dict(),
        "smoke": done.smoke,
    }


def _print(done: Deployed, where: Target, bundle: Bundle) -> None:
    from ubq.deploy.machine import throttling

    sent = sum(file.sent for file in done.files)
    say(
        _("{target}: {count} files for {runtime}, {sent:.1f} MB sent, SHA-256 compared there").format(
            target=where, count=len(done.files), runtime=done.runtime.title, sent=sent / 1e6
        )
    )
    machine = done.machine
    if done.smoke is None:
        say(
            _("try it: ssh {host} 'cd {path} && {python} generate.py --count 2'").format(
                host=where.host, path=where.path, python=machine.executable
            )
        )
        return
    name = machine.model or machine.machine
    memory = done.smoke["peak_memory_mb"]
    say(
        _("{machine}: {seconds:.3g} s a pair, {steps} steps, {memory} MB at the peak").format(
            machine=name,
            seconds=done.smoke["seconds_per_pair"],
            steps=done.smoke["steps"],
            memory="?" if memory is None else memory,
        )
    )
    if machine.temperature is not None:
        say(_("temperature: {degrees:.0f} C").format(degrees=machine.temperature))
    if machine.throttled is not None:
        say(_("throttling: {state}").format(state=", ".join(throttling(machine.throttled)) or _("none")))
