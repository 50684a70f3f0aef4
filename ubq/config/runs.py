"""Where the runs are, and commands about a run that work when they are pasted.

Light: ``ubq status`` finds its runs through this, so that neither pydantic nor the presets' resolution is imported.
"""

from __future__ import annotations

import itertools
import os
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path

from ubq.config import presets
from ubq.durable import read_text
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.interface import user_folder

PROJECT_FILE = "ubq.toml"
DEFAULT = "runs"


def user_file() -> Path | None:
    """The user's own configuration, ``~/.config/ubq/config.toml`` on Linux (XDG); None where there is none."""
    folder = user_folder()
    file = folder / "config.toml" if folder else None
    return file if file and os.access(file, os.F_OK) else None


def is_run_name(name: str) -> bool:
    """Whether a run can be named so: a folder name without a path, that is not hidden."""
    return bool(name) and "/" not in name and not name.startswith(".")


def expanded(path: str) -> str:
    """A path with ``~`` and ``~name`` replaced.

    Raises:
        UsageError: there is no such home folder.
    """
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise UsageError(
            _("{path}: there is no home folder for the ~").format(path=path),
            _("write the whole path, or: ./{path}").format(path=path),
        )
    return full


def runs_dir(folder: Path | None = None, project_file: Path | None = None) -> Path:
    """Folder of the runs: the one given, else ``run.dir`` of the configuration here, else ``runs``.

    A configuration that cannot be read is passed over: what looks at runs must not fail for it.

    Args:
        folder: what ``--runs-dir`` says.
        project_file: project configuration instead of ./ubq.toml.
    """
    if folder is not None:
        return Path(expanded(str(folder)))
    named = os.environ.get("UBQ_RUN__DIR", "").strip("\"'") or _dir_of(project_file or Path(PROJECT_FILE))
    return Path(expanded(named or _dir_of(user_file()) or DEFAULT))


def _dir_of(file: Path | None, depth: int = 0) -> str:
    """``run.dir`` of a TOML file or of what it extends; empty where neither says any."""
    if file is None:
        return ""
    try:
        values: object = tomllib.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(values, Mapping):
        return ""
    run = values.get("run")
    if isinstance(run, Mapping) and isinstance(run.get("dir"), str):
        return run["dir"]
    below = values.get("extends")
    for name in reversed([below] if isinstance(below, str) else below if isinstance(below, list) else []):
        if isinstance(name, str) and presets.is_path(name) and depth < 8:
            folder = _dir_of(file.parent / os.path.expanduser(name), depth + 1)
            if folder:
                return folder
    return ""


def quoted(text: str) -> str:
    """One word of a shell's command line; control characters, and bytes that are no text, as ``$'\\x1b'``."""
    if text.isprintable():
        return shlex.quote(text)
    safe = "".join(
        c if c.isprintable() and c not in "'\\" else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in text
    )
    return f"$'{safe}'"


def command(*words: str) -> str:
    """A command line to paste."""
    return " ".join(quoted(word) for word in words)


def place_of(run: Path) -> list[str]:
    """``--runs-dir`` and the folder, where a run does not lie where commands in the working folder look."""
    folder = run.absolute().parent
    return [] if folder == runs_dir().absolute() else ["--runs-dir", str(folder)]


def words_of(run: Path, *options: str) -> list[str]:
    """A run as commands take it, with options of theirs."""
    name = run.absolute().name
    options = (*place_of(run), *options)
    # a name that looks like an option goes last, behind the mark that ends them
    return [*options, "--", name] if name.startswith("-") else [name, *options]


def run_command(verb: str, run: Path, *options: str) -> str:
    """The exact command that does something with a run from the working folder."""
    return command("ubq", *verb.split(), *words_of(run, *options))


def values_set(resume: str) -> list[str]:
    """The options with which a command to resume, as a run has written it down, sets values; none in most.

    A run that diverged goes on with another learning rate alone.
    """
    try:
        words = shlex.split(resume)
    except ValueError:  # not one that ubq wrote
        return []
    sets = [word for option, value in itertools.pairwise(words) if option == "--set" for word in (option, value)]
    return [*sets, "--yes"] if sets and "--yes" in words else sets
