"""What the shell offers for a name that is half typed: runs and presets. ``ubq --install-completion`` sets it up.

A shell waits for it at every Tab: only names are read, and what goes wrong offers nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import typer


def run_names(context: typer.Context, incomplete: str) -> list[str]:
    """Runs in the folder that the command would look in, newest first; of paths the shell knows more."""
    from ubq.jobs.status import run_folders

    with contextlib.suppress(Exception):
        folder: Any = context.params.get("runs_dir") or "runs"
        return [run.name for run in run_folders(Path(folder)) if run.name.startswith(incomplete)]
    return []


def run_and_preset_names(context: typer.Context, incomplete: str) -> list[str]:
    """Where either can be meant."""
    return [*run_names(context, incomplete), *preset_names(incomplete)]


def preset_names(incomplete: str) -> list[str]:
    """Presets by name."""
    from ubq.config import presets

    with contextlib.suppress(Exception):
        return [name for name in presets.names() if name.startswith(incomplete)]
    return []
