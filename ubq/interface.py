"""The user's settings of the interface, ``interface.toml`` beside the user configuration.

They are no part of a run's configuration: ``language`` (``en``, ``zh_CN``), ``theme`` (``dark``, ``light``,
``terminal``), ``bell`` (``on``, ``off``: when a run ends), ``pictures`` (``blocks``: half blocks whatever the terminal
says that it can draw) and a table ``[keys]`` of binding ids and keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ubq.durable import read_text


@dataclass(frozen=True)
class Interface:
    """What the file says; ``problem`` where it cannot be used."""

    language: str = ""
    theme: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    bell: str = ""
    pictures: str = ""
    problem: str = ""


def user_folder() -> Path | None:
    """Folder of the user's own settings, ``~/.config/ubq`` on Linux (XDG); None for a user without a home."""
    from platformdirs import user_config_path

    try:
        return user_config_path("ubq")
    except RuntimeError:  # neither HOME nor an entry of the user in the system's list
        return None


def read_interface(file: Path | None = None) -> Interface:
    """The settings; what is wrong with them is told in ``problem`` and never stops anything."""
    try:
        folder = user_folder() if file is None else file.parent
    except ImportError:  # ubq.runtime alone, on a machine without ubq's dependencies
        return Interface()
    if folder is None:
        return Interface()
    file = file or folder / "interface.toml"
    try:
        raw = tomllib.loads(read_text(file))
    except FileNotFoundError:
        return Interface()
    except (OSError, ValueError, RecursionError) as error:  # nested too deeply
        return Interface(problem=f"{file}: {error}")
    keys = raw.pop("keys", {})
    unknown = sorted(set(raw) - {"language", "theme", "bell", "pictures"})
    if unknown or not isinstance(keys, dict) or not all(isinstance(v, str) for v in (*raw.values(), *keys.values())):
        return Interface(problem=f'{file}: language = "…", theme = "…", bell = "…", pictures = "…", [keys] id = "key"')
    said = {name: raw.get(name, "") for name in ("language", "theme", "bell", "pictures")}
    return Interface(**said, keys=keys)
