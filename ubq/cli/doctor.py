"""``ubq doctor``: what is wrong, and how to fix it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ubq.cli.completion import run_and_preset_names
from ubq.cli.options import HERE, RunsDir
from ubq.cli.output import say_json
from ubq.config.runs import expanded
from ubq.errors import EXIT_PREFLIGHT, UsageError
from ubq.i18n import gettext as _
from ubq.plaintext import printable

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.jobs.checks.check import Check


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            autocompletion=run_and_preset_names,
            metavar="[RUN|CONFIG]",
            help="A run, a TOML file or a preset; default: ./ubq.toml and the newest run.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one configuration key.")
    ] = None,
    runs_dir: RunsDir = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check the machine, the configuration, data, checkpoint, memory, quantisation and the success marks.

    Exit 0, or 3 when a check failed.
    """
    from ubq.jobs.checks.check import worst
    from ubq.jobs.checks.doctor import examine

    config, run, mistakes = _look_up(target, assignments or [], runs_dir)
    checks = [*mistakes, *examine(config, run)]
    status = worst(checks)
    if as_json:
        result = {
            "target": target or "",
            "run": str(run) if run else None,
            "status": status,
            "checks": [c.as_dict() for c in checks],
        }
        say_json(result)
    else:
        _print(checks)
    if status == "failed":
        raise typer.Exit(EXIT_PREFLIGHT)


def _look_up(
    target: str | None, assignments: list[str], runs_dir: Path
) -> tuple[Config | None, Path | None, list[Check]]:
    """Configuration and run that are meant; a configuration's mistakes are checks, each its own."""
    from ubq.config import presets
    from ubq.config.load import PROJECT_FILE, ConfigError, load_config, parse_assignments
    from ubq.jobs.checks.check import Check
    from ubq.jobs.frozen import load_frozen
    from ubq.jobs.status import find_run, run_folders
    from ubq.stages.paths import RunPaths

    overrides = parse_assignments(assignments)
    target = expanded(target) if target else None
    run, file, preset = None, None, None
    if target is None:
        if Path(PROJECT_FILE).is_file():
            file = Path(PROJECT_FILE)
        run = next(iter(run_folders(runs_dir)), None)
    elif Path(target).is_file():
        file = Path(target)
    elif "/" in target and (Path(target) / "config.toml").is_file():
        run = Path(target)
    elif presets.find(target) and not (runs_dir / target).is_dir():
        preset = target
    else:
        run = find_run(target, runs_dir)
    try:
        if run is not None:
            # What the run was started with, whatever ubq.toml says by now.
            frozen = run / "config.toml"
            if frozen.is_file():
                return load_frozen(RunPaths(run), overrides), run, []
            raise UsageError(_("run {run} has no config.toml").format(run=run), "ubq run --run NAME --preset NAME")
        if file is not None or preset is not None:
            return load_config(preset, overrides, file).config, None, []
    except ConfigError as error:
        mistakes = [
            Check(
                id=f"parameters.{f.key or 'file'}",
                status="failed",
                figure=str(f),
                why=_("a run with this configuration is refused"),
                fix=f.suggestion or _("edit {place}").format(place=f.location),
            )
            for f in error.findings
        ]
        return None, run, mistakes
    return None, None, []


def _print(checks: list[Check]) -> None:
    """One block for each area, on stdout: a word for the status, never colour alone."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    words = {"ok": (_("ok"), "green"), "warning": (_("warning"), "yellow"), "failed": (_("FAILED"), "bold red")}
    width = max(len(word) for word, _style in words.values())
    area = ""
    for check in checks:
        check_area, _dot, name = check.id.partition(".")
        if check_area != area:
            console.print(Text(check_area, style="bold"))
            area = check_area
        word, style = words[check.status]
        line = Text("  ")
        line.append(f"{word:<{width}}", style=style)
        line.append(printable(f"  {name}: {check.figure}"))
        console.print(line)
        if check.status != "ok":
            indent = " " * (width + 4)
            if check.why:
                console.print(Text(printable(f"{indent}{_('why')}: {check.why}")))
            if check.fix:
                console.print(Text(printable(f"{indent}{_('fix')}: {check.fix}"), style="bold"))
    counts = {s: sum(c.status == s for c in checks) for s in words}
    text = _("{ok} ok, {warning} warnings, {failed} failed")
    console.print(text.format(ok=counts["ok"], warning=counts["warning"], failed=counts["failed"]))
