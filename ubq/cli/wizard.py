"""``ubq wizard``: the text user interface, and the same questions as plain prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ubq.cli.completion import preset_names, run_names
from ubq.errors import UsageError
from ubq.i18n import gettext as _


def wizard(
    run: Annotated[
        str | None,
        typer.Argument(
            autocompletion=run_names, metavar="[RUN]", help="A run to open; without one, the list of runs and presets."
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", autocompletion=preset_names, help="Open the wizard on this preset.")
    ] = "",
    config_file: Annotated[
        Path, typer.Option("--config", help="Configuration file to write; default: ./ubq.toml.")
    ] = Path("ubq.toml"),
    runs_dir_option: Annotated[
        Path | None,
        typer.Option("--runs-dir", help="Folder that holds the runs; default: run.dir of the configuration here."),
    ] = None,
    tui: Annotated[bool, typer.Option("--tui/--no-tui", help="Screens, or plain prompts.")] = True,
) -> None:
    """Set up a run step by step, start it, follow it, and see what came out."""
    from ubq.config import presets
    from ubq.config.runs import runs_dir
    from ubq.jobs.status import find_run

    folder_of_runs = runs_dir(runs_dir_option, config_file)
    if preset and not presets.find(preset):
        raise UsageError(_("{name} is not a preset").format(name=preset), "ubq presets list")
    folder = find_run(run, folder_of_runs) if run else None
    if not tui:
        from ubq.tui.prompts import ask_all

        raise typer.Exit(ask_all(config_file, folder_of_runs, preset))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(_("ubq wizard needs a terminal"), _("without one: ubq run --preset NAME"))
    from ubq.interface import read_interface
    from ubq.tui.graphics import asked

    interface = read_interface()
    with asked(interface.pictures != "blocks") as answer:
        from ubq.tui.app import UbqApp  # takes longer than the terminal's answer

        graphics = answer()
    app = UbqApp(folder_of_runs, config_file, interface, folder, preset, graphics)
    raise typer.Exit(app.run() or app.return_code or 0)
