"""Changing a configuration file by key, with its comments and layout kept."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ubq.config import keys
from ubq.config.findings import ConfigError
from ubq.config.layers import flatten, parse_text
from ubq.config.load import load_config
from ubq.config.rendering import schema_comment
from ubq.durable import write_atomic
from ubq.errors import UsageError
from ubq.i18n import gettext as _


def write_file(file: Path, text: str) -> None:
    """Write ``text`` in one step.

    Raises:
        UsageError: the file cannot be written; what was there is untouched.
    """
    try:
        write_atomic(file, text.encode())
    except OSError as error:
        raise UsageError(_("cannot write {file}: {reason}").format(file=file, reason=error.strerror)) from error


def edited(text: str, values: Mapping[str, object]) -> str:
    """The TOML ``text`` with dotted keys set, everything else as it was.

    Raises:
        UsageError: ``text`` is not TOML, or a key runs through a value that is no table.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        for name, value in values.items():
            *parents, last = name.split(".")
            table: Any = document
            for parent in parents:
                if parent not in table:
                    table[parent] = tomlkit.table(is_super_table=parent != parents[-1])
                table = table[parent]
            table[last] = value
        result = tomlkit.dumps(document)
        written = dict(flatten(tomllib.loads(result)))
    except (TOMLKitError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UsageError(_("cannot set {names}: {reason}").format(names=", ".join(values), reason=error)) from error
    for name, value in values.items():
        if written.get(tuple(name.split("."))) != value:
            raise UsageError(_("cannot set {name} in this layout").format(name=name), _("edit the file by hand"))
    return result


def set_values(file: Path, values: Mapping[str, object]) -> dict[str, str]:
    """Set dotted keys in a configuration file; text is parsed as ``--set`` does. A missing file is begun.

    Mistakes elsewhere in the file do not stand in the way; those that the change makes do.

    Returns:
        key -> value as TOML.

    Raises:
        ConfigError: a key is unknown, or its value is not allowed there.
        UsageError: the file cannot be read or written.
    """
    parsed: dict[str, object] = {}
    for name, value in values.items():
        path = tuple(name.split("."))
        new = parse_text(path, value) if isinstance(value, str) else value
        parsed[name] = list(new) if isinstance(new, tuple) else new
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else schema_comment(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(_("cannot read {file}: {reason}").format(file=file, reason=error)) from error
    after = edited(before, parsed)
    # Beside the file, so that an `extends` with a relative path means the same.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".toml", dir=_writable(file), delete=False) as draft:
        draft.write(after)
    try:
        _judge(Path(draft.name), file, set(parsed))
    finally:
        Path(draft.name).unlink()
    write_file(file, after)
    return {name: keys.toml_value(value) for name, value in parsed.items()}


def _writable(file: Path) -> Path:
    import os

    if not os.access(file.parent, os.W_OK):
        raise UsageError(_("cannot write {file}: no permission in its folder").format(file=file))
    return file.parent


def _judge(draft: Path, file: Path, changed: set[str]) -> None:
    try:
        load_config(project_file=draft, isolated=True)
    except ConfigError as error:
        mine = [f for f in error.findings if f.key in changed or any(f.key.startswith(f"{k}.") for k in changed)]
        if mine:
            raise ConfigError([replace(f, file=str(file), line=None) for f in mine]) from error
