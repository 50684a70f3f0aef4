"""Changing a configuration file by key, with its comments and layout kept."""

from __future__ import annotations

import codecs
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ubq.config import keys
from ubq.config.findings import ConfigError
from ubq.config.layers import parse_text
from ubq.config.load import load_config
from ubq.config.rendering import schema_comment
from ubq.durable import read_regular, write_atomic
from ubq.errors import UsageError
from ubq.i18n import gettext as _


@dataclass(frozen=True)
class Style:
    """What of a text file is not in its text."""

    newline: str = "\n"
    mark: bytes = b""
    """Byte-order mark."""

    def encode(self, text: str) -> bytes:
        """The file's content."""
        return self.mark + text.replace("\n", self.newline).encode()


def read_file(file: Path) -> tuple[str, Style]:
    r"""A configuration's text with ``\n`` at the ends of lines, and how it was written.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        data = read_regular(file)
        mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
        text = data.removeprefix(mark).decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            _("cannot read {file}: {reason}").format(file=file, reason=_("not UTF-8 text")), _("save it as UTF-8")
        ) from error
    except OSError as error:
        raise UsageError(_("cannot read {file}: {reason}").format(file=file, reason=error.strerror or error)) from error
    windows = text.count("\r\n") * 2 > text.count("\n")
    return text.replace("\r\n", "\n"), Style("\r\n" if windows else "\n", mark)


def write_file(file: Path, text: str, style: Style | None = None) -> None:
    r"""Write ``text`` in one step; a link is followed, and a file that is there keeps its permissions.

    Args:
        file: where to.
        text: with ``\n`` at the ends of lines.
        style: how to write it; ``None``: plainly.

    Raises:
        UsageError: the file cannot be written; what was there is untouched.
    """
    try:
        target = file.resolve()
        mode = target.stat().st_mode if target.exists() else None
        write_atomic(target, (style or Style()).encode(text))
        if mode is not None:
            target.chmod(stat.S_IMODE(mode))
    except OSError as error:
        raise UsageError(_("cannot write {file}: {reason}").format(file=file, reason=error.strerror)) from error


def edited(text: str, values: Mapping[str, object]) -> str:
    """The TOML ``text`` with dotted keys set, everything else as it was.

    Raises:
        UsageError: ``text`` is not TOML, or a key runs through a value that is no table.
    """
    for name, value in values.items():
        text = _with_key(text, tuple(name.split(".")), value)
    return text


def _with_key(text: str, path: keys.Path, value: object) -> str:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    reason: object = _("its layout is unusual")
    try:
        expected = tomllib.loads(text)
        table: Any = expected
        for parent in path[:-1]:
            table = table.setdefault(parent, {})
        table[path[-1]] = value
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UsageError(_("cannot set {name}: {reason}").format(name=".".join(path), reason=error)) from error
    # A new table as a header where that reads the same, else as a dotted key. Only an exact result counts.
    for insert in (_under_headers, _dotted_in_table, _dotted_at_top):
        try:
            document = tomlkit.parse(text)
            insert(document, path, value)
            result = tomlkit.dumps(document)
            if tomllib.loads(result) == expected:
                return result
        except (TOMLKitError, TypeError, AttributeError, ValueError) as error:
            reason = error
    raise UsageError(
        _("cannot set {name}: {reason}").format(name=".".join(path), reason=reason), _("edit the file by hand")
    )


def _under_headers(document: Any, path: keys.Path, value: object) -> None:
    import tomlkit

    table = document
    for depth, name in enumerate(path[:-1]):
        if name not in table:
            table[name] = tomlkit.table(is_super_table=depth < len(path) - 2)
        table = table[name]
    table[path[-1]] = value


def _dotted_in_table(document: Any, path: keys.Path, value: object) -> None:
    import tomlkit

    depth = 0
    while path[depth] in document:
        document, depth = document[path[depth]], depth + 1
    document.append(tomlkit.key(list(path[depth:])), value)


def _dotted_at_top(document: Any, path: keys.Path, value: object) -> None:
    import tomlkit

    document.append(tomlkit.key(list(path)), value)


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
    before, style = read_file(file) if file.exists() else (schema_comment(file), None)
    after = edited(before, parsed)
    _judge(file, after, set(parsed))
    write_file(file, after, style)
    return {name: keys.toml_value(value) for name, value in parsed.items()}


def _judge(file: Path, text: str, changed: set[str]) -> None:
    try:
        load_config(project_file=file, project_text=text, isolated=True)
    except ConfigError as error:
        mine = [f for f in error.findings if any(_overlap(f.key, name) for name in changed)]
        if mine:
            raise ConfigError([replace(f, line=None) for f in mine]) from error


def _overlap(a: str, b: str) -> bool:
    """Whether one dotted key is the other, or lies in it."""
    return f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")
