"""``ubq config``: look at, check, change and compare configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ubq.cli.completion import preset_names
from ubq.cli.options import HERE, Assignments, Json, PresetName, ProjectFile, RunsDir
from ubq.cli.output import say, say_json
from ubq.config.runs import expanded
from ubq.errors import EXIT_USAGE, UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import Config

app = typer.Typer(help="Look at, check, change and compare configurations.", no_args_is_help=True, add_completion=False)


@app.command()
def show(
    preset: PresetName = None,
    assignments: Assignments = None,
    config_file: ProjectFile = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Every key, not only those that are set.")] = False,
    provenance: Annotated[bool, typer.Option("--provenance", help="Where each value comes from.")] = False,
    as_json: Json = False,
) -> None:
    """Print the configuration that `ubq run` would use here."""
    from ubq.config.load import load_config, parse_assignments
    from ubq.config.rendering import as_tables, as_toml

    loaded = load_config(preset, parse_assignments(assignments or []), config_file)
    only = None if resolved else {k for k, source in loaded.provenance.items() if source != "default"}
    if as_json:
        shown: dict[str, object] = {"preset": loaded.preset, "config": as_tables(loaded.config, only)}
        if provenance:
            shown["provenance"] = {k: s for k, s in loaded.provenance.items() if only is None or k in only}
        say_json(shown)
    else:
        say(as_toml(loaded.config, loaded.provenance if provenance else None, only), end="")


@app.command()
def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Files; none: all layers.")] = None,
    preset: PresetName = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Name every mistake at once; exit 2 when there is one.

    A FILE is judged with the presets it extends; without FILE, the configuration that `ubq run` would use here.
    """
    from ubq.config.load import ConfigError, Finding, load_config, parse_assignments

    findings: list[Finding] = []
    overrides = parse_assignments(assignments or [])
    judged: list[Path | None] = [*files] if files else [None]
    for file in judged:
        try:
            if file is None:
                load_config(preset, overrides)
            else:
                load_config(preset, overrides, file, isolated=True)
        except ConfigError as error:
            findings += error.findings
    if as_json:
        say_json({"findings": [f.as_dict() for f in findings]})
    elif findings:
        for finding in findings:
            say(str(finding), err=True)
        say(_("mistakes: {count}").format(count=len(findings)), err=True)
    else:
        what = ", ".join(map(str, files)) if files else _("configuration")
        say(_("{what}: no mistakes").format(what=what))
    if findings:
        raise typer.Exit(EXIT_USAGE)


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", help="File to write; default: stdout.")] = None,
) -> None:
    """Print the JSON schema that editors use to complete and check ubq.toml."""
    from ubq.config.rendering import schema_text

    if output:
        from ubq.config.editing import write_file

        write_file(output, schema_text())
    else:
        say(schema_text(), end="")


@app.command(hidden=True)
def docs(
    output: Annotated[Path | None, typer.Option("--output", help="File to write; default: stdout.")] = None,
) -> None:
    """Print the reference page of all keys, in Markdown."""
    from ubq.config.reference import page

    if output:
        from ubq.config.editing import write_file

        write_file(output, page())
    else:
        say(page(), end="")


@app.command()
def init(
    preset: Annotated[str, typer.Option("--preset", autocompletion=preset_names, help="Preset to build on.")] = "demo",
    file: Annotated[Path, typer.Option("--file", help="File to write.")] = Path("ubq.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a ubq.toml that extends a preset and shows every key with its help."""
    from ubq.config.editing import write_file
    from ubq.config.load import load_config
    from ubq.config.rendering import commented

    if file.exists() and not force:
        raise UsageError(_("{file} is there already").format(file=file), "ubq config init --force")
    config = load_config(preset, isolated=True).config
    write_file(file, commented(config, preset, file))
    say(_("wrote {file}; next: ubq run").format(file=file))


@app.command("set")
def set_key(
    key: Annotated[str, typer.Argument(help="Dotted key, as qat.epochs.")],
    value: Annotated[str, typer.Argument(help="A TOML value, or plain text.")],
    file: Annotated[Path, typer.Option("--file", help="File to change.")] = Path("ubq.toml"),
) -> None:
    """Set one key in ubq.toml; comments and everything else stay as they are."""
    from ubq.config.editing import set_values

    changed = set_values(file, {key: value})
    for name, text in changed.items():
        say(f"{file}: {name} = {text}")


def configuration_of(name: str, runs_dir: Path) -> Config:
    """The configuration that ``name`` stands for: a run, a run's folder, a TOML file or a preset.

    Raises:
        UsageError: it is none of them.
    """
    from ubq.config import keys, presets
    from ubq.config.load import PROJECT_FILE, load_config, read_frozen
    from ubq.jobs.status import run_folders

    path = Path(expanded(name))
    for folder in (runs_dir / name, path):
        if (folder / "config.toml").is_file():
            return read_frozen(folder / "config.toml")
    if path.is_file():
        return load_config(project_file=path, isolated=True).config
    if presets.find(name):
        return load_config(name, isolated=True).config
    runs = [folder.name for folder in run_folders(runs_dir)]
    near = keys.did_you_mean(name, [*runs, *presets.names()])
    fix = _("did you mean {name}?").format(name=near) if near else "ubq runs"
    message = _("{name} is no run in {folder}, no file like {file} and no preset")
    raise UsageError(message.format(name=name, folder=runs_dir, file=PROJECT_FILE), fix)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run, a TOML file or a preset.")],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another.")],
    runs_dir: RunsDir = HERE,
    as_json: Json = False,
) -> None:
    """Print the keys in which two runs, files or presets differ."""
    from ubq.config.keys import toml_value
    from ubq.config.rendering import differing

    changed = differing(*(configuration_of(name, runs_dir) for name in (a, b)))
    if as_json:
        say_json({"a": a, "b": b, "changes": [{"key": k, "a": x, "b": y} for k, (x, y) in changed.items()]})
        return
    if not changed:
        say(_("no difference"))
    width = max((len(k) for k in changed), default=0)
    for key, (x, y) in changed.items():
        say(f"{key:<{width}}  {toml_value(x)} -> {toml_value(y)}")
