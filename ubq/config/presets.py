"""Presets: TOML files shipped with ubq, found by name, each building on others through ``extends``."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ubq.errors import UsageError
from ubq.i18n import gettext as _

SCHEMA_FILE = "schema.json"


@cache
def folder() -> Path:
    """Folder of the shipped presets: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    for candidate in (package / "presets", package.parent / "presets"):
        if (candidate / "demo.toml").is_file():
            return candidate
    raise UsageError(_("the presets of ubq are missing"), "pip install --force-reinstall ubq")


def names() -> list[str]:
    """Names of the presets a run may use; files that begin with an underscore are parts of others."""
    return sorted(f.stem for f in folder().glob("*.toml") if not f.name.startswith("_"))


def overview() -> str:
    """The names in one line: sizes of one data set are named once."""
    every = names()
    short = [n for n in every if n.removesuffix("-base").removesuffix("-edge") == n]
    return _("{names}; each data set also as NAME-base and NAME-edge").format(names=", ".join(short))


def is_path(name: str) -> bool:
    """Whether ``name`` means a file rather than a shipped preset."""
    return "/" in name or "\\" in name or name.endswith(".toml")


def find(name: str, relative_to: Path | None = None) -> Path | None:
    """File of the preset ``name``, or None; a path is taken relative to the folder ``relative_to``."""
    if is_path(name):
        file = (relative_to or Path()) / os.path.expanduser(name)
    else:
        file = folder() / f"{name}.toml"
    return file if file.is_file() else None


@dataclass(frozen=True)
class Preset:
    """One line of ``ubq presets list``."""

    name: str
    description: str
    file: Path


def listing() -> list[Preset]:
    """All presets with their descriptions; nothing is resolved."""
    return [
        Preset(
            n,
            str(tomllib.loads((folder() / f"{n}.toml").read_text("utf-8")).get("description", "")),
            folder() / f"{n}.toml",
        )
        for n in names()
    ]
