"""A configuration as text: the frozen file of a run, ``ubq config show``, and a commented ``ubq.toml``."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Container, Mapping
from pathlib import Path

from ubq.config import keys, presets
from ubq.config.layers import key_lines
from ubq.config.schema import Config
from ubq.i18n import gettext as _


def differing(a: Config, b: Config) -> dict[str, tuple[object, object]]:
    """Keys in which two configurations differ, with both values."""
    left, right = values_of(a), values_of(b)
    return {".".join(path): (left[path], right[path]) for path in left if left[path] != right[path]}


def values_of(config: Config) -> dict[keys.Path, object]:
    """Every key's value, as JSON has it (arrays are lists)."""
    dumped = config.model_dump(mode="json")

    def at(path: keys.Path) -> object:
        value: object = dumped
        for name in path:
            assert isinstance(value, dict)
            value = value[name]
        return value

    return {path: at(path) for path in keys.leaves()}


def as_toml(config: Config, provenance: Mapping[str, str] | None = None, only: Container[str] | None = None) -> str:
    """``config`` as TOML.

    Args:
        config: the values.
        provenance: dotted key -> source, written as a comment behind each value.
        only: dotted keys to write; None: all.
    """
    import tomli_w

    text = tomli_w.dumps(as_tables(config, only))
    if not provenance:
        return text
    lines = text.splitlines()
    for path, number in key_lines(text).items():
        if ".".join(path) in provenance:
            lines[number - 1] += f"  # {provenance['.'.join(path)]}"
    return "\n".join(lines) + "\n"


def as_tables(config: Config, only: Container[str] | None = None) -> dict[str, object]:
    """``config`` as nested tables for JSON, ``only`` as in ``as_toml``."""
    tree: dict = {}
    for path, value in values_of(config).items():
        if only is None or ".".join(path) in only:
            table = tree
            for name in path[:-1]:
                table = table.setdefault(name, {})
            table[path[-1]] = value
    return tree


def schema_text() -> str:
    """The committed JSON schema file's content."""
    return json.dumps(keys.json_schema(), indent=2, ensure_ascii=False) + "\n"


def schema_comment(file: Path) -> str:
    """First line of a configuration at ``file``, by which editors complete and check it."""
    schema = presets.folder() / presets.SCHEMA_FILE
    near = os.path.relpath(schema.resolve(), file.resolve().parent)
    where = schema.resolve().as_uri() if near.startswith("..") else Path("./" + near).as_posix()
    return f"#:schema {where if '://' in where else './' + where.removeprefix('./')}\n"


def commented(config: Config, preset: str, file: Path) -> str:
    """A ``ubq.toml`` that extends ``preset`` and shows every key, commented out, with its help."""
    values = values_of(config)
    inherited = {("qat", "decoders"), ("qat", "diffusion")}
    head = [
        schema_comment(file).rstrip(),
        "# " + _("Remove the # before a key to change it; `ubq config show --provenance` says what counts."),
        f"extends = {keys.toml_value(preset)}",
    ]
    for path, key in keys.all_keys().items():
        if path in {("extends",), ("description",)} or (path[:2] in inherited and len(path) > 2):
            continue
        if key.kind == "table":
            head += ["", *textwrap.wrap(key.help, 110, initial_indent="# ", subsequent_indent="# ")]
            head.append(f"[{key.name}]")
        else:
            help_text = f"{key.help} ({key.allowed})"
            head += textwrap.wrap(help_text, 110, initial_indent="## ", subsequent_indent="## ")
            head.append(f"# {path[-1]} = {keys.toml_value(values[path])}")
    return "\n".join(head) + "\n"
