"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ubq.cli.completion import preset_names, run_names
from ubq.config.runs import runs_dir

RunName = Annotated[
    str | None,
    typer.Argument(autocompletion=run_names, metavar="[RUN]", help="A run's name or folder; the newest when absent."),
]


def _runs_dir(value: Path | None) -> Path:
    return runs_dir(value)


RunsDir = Annotated[
    Path,
    typer.Option(
        "--runs-dir", callback=_runs_dir, help="Folder that holds the runs; default: run.dir of the configuration here."
    ),
]
HERE: Any = None
"""Default of :data:`RunsDir`, for which its callback finds the folder."""

NewRunsDir = Annotated[Path | None, typer.Option("--runs-dir", help="Folder that holds the runs; default: runs.")]
"""Of a run that may be new: ``run.dir`` of its own configuration counts, so that there is no folder to look for."""
PresetName = Annotated[
    str | None,
    typer.Option("--preset", autocompletion=preset_names, help="Preset to build on; see ubq presets list."),
]
ProjectFile = Annotated[Path | None, typer.Option("--config", help="Project file instead of ./ubq.toml.")]
GROUP = "Several processes"
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
NoPreflight = Annotated[bool, typer.Option("--no-preflight", help="Do not check disk, memory, data and device first.")]
Nnodes = Annotated[
    str, typer.Option("--nnodes", help="Machines that train together; torchrun's option.", rich_help_panel=GROUP)
]
Rendezvous = Annotated[
    str,
    typer.Option(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="Where the machines meet; torchrun's option.",
        rich_help_panel=GROUP,
    ),
]
ShardText = Annotated[
    str, typer.Option("--shard", metavar="i/n", help="The i-th of n parts alone, for n machines that share the work.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Run in the background, in a session of its own.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one configuration key.")
]
Force = Annotated[str, typer.Option("--force", metavar="STAGE", help="Run this stage and what depends on it again.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do over what changed values ask for, however long that took.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what each stage would do and why; change nothing.")]
