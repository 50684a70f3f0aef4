"""``ubq presets``: what there is to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ubq.cli.completion import preset_names
from ubq.cli.output import say, say_json
from ubq.config.runs import command
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import Family

app = typer.Typer(help="Configurations to start from.", no_args_is_help=True, add_completion=False)

Name = Annotated[
    str, typer.Argument(autocompletion=preset_names, metavar="NAME", help="A preset; see ubq presets list.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def _file(name: str) -> Path:
    from ubq.config import keys, presets

    file = presets.find(name)
    if file is None:
        near = keys.did_you_mean(name, presets.names())
        fix = _("did you mean {name}?").format(name=near) if near else "ubq presets list"
        raise UsageError(_("{name} is not a preset").format(name=name), fix)
    return file


def _data_set(family: Family) -> dict[str, object]:
    """File patterns, official split and ranges of a data set."""
    from ubq.data.families import FAMILIES, VELOCITY_RANGE

    facts = FAMILIES[family]
    train, val = facts.train_numbers, facts.val_numbers
    first = facts.file_ids("train")[0]
    return {
        "family": family,
        "first_files": [first.relative_path("seismic"), first.relative_path("velocity")],
        "train_files": len(facts.file_ids("train")),
        "val_files": len(facts.file_ids("val")),
        "train_numbers": [train[0], train[-1]],
        "val_numbers": [val[0], val[-1]],
        "amplitude_range": list(facts.amplitude),
        "velocity_range": list(VELOCITY_RANGE),
    }


@app.command("list")
def list_presets(as_json: Json = False) -> None:
    """Name every preset with one line about it."""
    from ubq.config import presets
    from ubq.config.load import load_config

    if as_json:
        rows = []
        for preset in presets.listing():
            config = load_config(preset.name, isolated=True).config
            rows.append(
                {
                    "name": preset.name,
                    "description": preset.description,
                    "file": str(preset.file),
                    "data": _data_set(config.data.family),
                    "encoder_dim": config.model.encoder_dim,
                    "dim_mults": list(config.model.dim_mults),
                }
            )
        say_json({"presets": rows})
        return
    width = max(len(n) for n in presets.names())
    for preset in presets.listing():
        say(f"{preset.name:<{width}}  {_(preset.description)}")


@app.command()
def show(
    name: Name,
    resolved: Annotated[bool, typer.Option("--resolved", help="Every key, with where it comes from.")] = False,
    as_json: Json = False,
) -> None:
    """Print a preset as it is written, or with everything it extends."""
    from ubq.config.keys import toml_value
    from ubq.config.load import load_config
    from ubq.config.rendering import as_tables, as_toml

    file = _file(name)
    loaded = load_config(name, isolated=True)
    data = _data_set(loaded.config.data.family)
    if as_json:
        document = {
            "name": name,
            "data": data,
            "config": as_tables(loaded.config),
            "provenance": dict(loaded.provenance),
        }
        say_json(document)
        return
    say(as_toml(loaded.config, loaded.provenance) if resolved else file.read_text(encoding="utf-8-sig"), end="")
    say("")
    for key, value in data.items():
        say(f"# {key}: {toml_value(value)}")


@app.command()
def copy(
    name: Name,
    to: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to; default: ./NAME.toml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a preset here to change it; what it extends stays shared."""
    from ubq.config.editing import write_file
    from ubq.config.presets import is_path
    from ubq.config.rendering import schema_comment

    source = _file(name)
    file = to or Path(source.name)
    if file.is_dir():
        file = file / source.name
    if file.exists() and not force:
        raise UsageError(
            _("{file} is there already").format(file=file), command("ubq", "presets", "copy", name, "FILE")
        )
    text = source.read_text(encoding="utf-8-sig")
    body = text.partition("\n")[2] if text.startswith("#:schema") else text
    write_file(file, schema_comment(file) + body)
    shown = str(file) if is_path(str(file)) else f"./{file}"
    run = "ubq run" if file == Path("ubq.toml") else command("ubq", "run", "--preset", shown)
    say(_("wrote {file}; next: {command}").format(file=file, command=run))


SIZES = ("curvefault-a", "curvefault-a-base", "curvefault-a-edge", "demo")
"""A preset of every size."""


@app.command()
def memory(
    names: Annotated[
        list[str] | None,
        typer.Argument(autocompletion=preset_names, metavar="[NAME]...", help="Presets; default: one of every size."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what training takes of memory on 1, 2, 4 and 8 devices, and of disk; nothing is run.

    Of the figures the second is with activation checkpointing, which a run chooses where the first does not fit, and
    the third with the U-Net spread over the devices, which it chooses where the second does not.
    """
    from ubq.config.load import load_config
    from ubq.stages import PIPELINE
    from ubq.stages.estimate import LAYOUTS, layouts

    memory_by_preset = {}
    for name in names or SIZES:
        config = load_config(str(_file(name)), isolated=True).config
        memory_by_preset[name] = layouts(config, [stage.name for stage in PIPELINE if stage.applies(config)])
    if as_json:
        say_json(memory_by_preset)
        return
    head = [_("preset"), *(_("{count} devices, GB each").format(count=count) for count in LAYOUTS)]
    say(" | ".join(["", *head, _("checkpoint GB"), _("disk GB"), ""]).strip())
    say("|---" * (len(head) + 2) + "|")
    for name, facts in memory_by_preset.items():
        cells = [
            " / ".join(
                dict.fromkeys(f"{facts['devices'][count][kind] / 1e9:.1f}" for kind in ("plain", "least", "sharded"))
            )
            for count in LAYOUTS
        ]
        say(f"| {' | '.join([name, *cells, *(f'{facts[key] / 1e9:.1f}' for key in ('checkpoint', 'disk'))])} |")
