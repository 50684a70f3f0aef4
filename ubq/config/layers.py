"""Layers of configuration: where each value was written, and which layer wins.

A layer is flat: path -> entry. Tables merge key by key, everything else (lists too) replaces.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from ubq.config.findings import Finding
from ubq.config.keys import Path, all_keys
from ubq.config.schema import qat_heirs
from ubq.durable import read_text
from ubq.i18n import gettext as _

ENVIRONMENT_PREFIX = "UBQ_"


@dataclass(frozen=True)
class Source:
    """Where a value was written: ``text`` for provenance; ``file`` and ``line`` for findings."""

    text: str
    file: str
    line: int | None = None


@dataclass(frozen=True)
class Entry:
    """A value, where it was written, and under which key (differs for an inherited one)."""

    value: Any
    source: Source
    written_as: Path


@dataclass
class Layer:
    """One source of values."""

    entries: dict[Path, Entry] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def put(self, path: Path, value: Any, source: Source, written_as: Path | None = None) -> None:
        """Set one key; a table that becomes a value, or the reverse, replaces what was there."""
        key = all_keys().get(path)
        if value == {} and key and key.kind == "table":
            return  # an empty [table] changes nothing
        for other in [p for p in self.entries if p[: len(path)] == path or path[: len(p)] == p]:
            del self.entries[other]
        self.entries[path] = Entry(value, source, written_as or path)

    def over(self, higher: Layer) -> None:
        """Lay ``higher`` on top of this layer."""
        for path, entry in higher.entries.items():
            self.put(path, entry.value, entry.source, entry.written_as)
        self.findings += higher.findings


_MOST_NESTED = 50
"""Tables and arrays in one another; the schema has four."""
_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]+\s*\.\s*){{{_MOST_NESTED}}}")


def _deeper_than(values: Mapping[str, Any], limit: int) -> bool:
    """Whether tables and arrays stand in one another more often than that."""
    level: list[Any] = [values]
    for _depth in range(limit):
        inner = (v for outer in level for v in (outer.values() if isinstance(outer, Mapping) else outer))
        level = [v for v in inner if isinstance(v, Mapping | list)]
    return bool(level)


def flatten(values: Mapping[str, Any], prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Leaves of nested tables; an empty table is a leaf too, so that an unknown one is noticed."""
    for name, value in values.items():
        path = (*prefix, name)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, path)
        else:
            yield path, value


def nested(entries: Mapping[Path, Entry]) -> dict[str, Any]:
    """The tables that ``entries`` spell out, lists as tuples."""
    tree: dict[str, Any] = {}
    for path, entry in entries.items():
        table: MutableMapping[str, Any] = tree
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = _tuples(entry.value)
    return tree


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def inherit(layer: Layer) -> Layer:
    """Spell out what a key means for others, within one layer, so that the topmost layer decides.

    A key of [qat] also sets [qat.decoders] and [qat.diffusion]; ``epochs`` alone drops a number of
    ``steps`` that a lower layer set, since steps would win.
    """
    for path, entry in list(layer.entries.items()):
        for heir in qat_heirs(path):
            if heir not in layer.entries and heir[:2] not in layer.entries:
                layer.put(heir, entry.value, entry.source, path)
    for path, entry in list(layer.entries.items()):
        steps = (*path[:-1], "steps")
        if path[-1] == "epochs" and steps in all_keys() and steps not in layer.entries:
            layer.put(steps, 0, entry.source, entry.written_as)
    return layer


def key_lines(text: str) -> dict[Path, int]:
    """Line, from 1, on which each key and table of a valid TOML text begins.

    Lines are gathered until they parse alone, which leaves all of TOML's grammar to ``tomllib``.
    """
    line_of: dict[Path, int] = {}
    table: Path = ()
    statement, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        start = start or number
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = ()
            inner: Any = parsed
            while isinstance(inner, dict) and inner:
                name = next(iter(inner))
                table, inner = (*table, name), inner[name]
                inner = inner[0] if isinstance(inner, list) and inner else inner
            line_of.setdefault(table, start)
        else:
            for path, _value in flatten(parsed):
                for depth in range(len(table) + 1, len(table) + len(path) + 1):
                    line_of.setdefault((*table, *path)[:depth], start)
        statement, start = "", 0
    return line_of


def read_layer(file: FilePath, shown: str = "", provenance: str = "", text: str | None = None) -> Layer:
    """The layer of a TOML file; what makes it unreadable is a finding of the layer.

    Args:
        file: the file.
        shown: how the user would type it.
        provenance: text for the sources; empty: ``<shown>:<line>``.
        text: content that the file is to have; None: what it has.
    """
    layer = Layer()
    shown = shown or str(file)

    def unreadable(allowed: str, line: int | None = None, value: str = "", suggestion: str = "") -> Layer:
        finding = Finding(file=shown, line=line, key="", given=value, allowed=allowed, suggestion=suggestion)
        layer.findings.append(finding)
        return layer

    try:
        text = read_text(file) if text is None else text
    except UnicodeDecodeError:
        return unreadable(_("not UTF-8 text"), suggestion=_("save it as UTF-8"))
    except OSError as error:
        return unreadable(_("cannot be read: {reason}").format(reason=error.strerror))
    try:
        if _LONG_KEY.search(text):  # the parser's memory grows with the square of its parts
            return unreadable(_("nested too deeply"))
        values = tomllib.loads(text)
        if _deeper_than(values, _MOST_NESTED):
            return unreadable(_("nested too deeply"))
        lines = key_lines(text)
    except RecursionError:
        return unreadable(_("nested too deeply"))
    except ValueError as error:  # TOMLDecodeError, and numbers with thousands of digits
        at = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(at[1]) if at else (len(text.splitlines()) if "end of document" in str(error) else None)
        all_lines = text.splitlines()
        bad_line = all_lines[line - 1].strip() if line and line <= len(all_lines) else ""
        reason = re.sub(r"\s*\(at .*\)$", "", str(error))
        return unreadable(_("not valid TOML: {reason}").format(reason=reason), line, bad_line)
    for path, value in flatten(values):
        line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
        layer.put(path, value, Source(provenance or (f"{shown}:{line}" if line else shown), shown, line))
    return layer


def parse_text(path: Path, text: str) -> Any:
    """The value that ``text`` from the command line or the environment means for the key at ``path``.

    A TOML value where it is one; plain text where the key takes a string; ``a,b`` for an array.
    """
    key = all_keys().get(path)
    quoted = text[:1] in ("'", '"')
    if key and key.kind == "string" and not quoted and "anyOf" not in key.schema:
        return text
    try:
        return tomllib.loads(f"value = {text}\n")["value"]
    except (ValueError, RecursionError):
        pass
    if key and key.kind == "array":
        parts = [p.strip() for p in text.strip("[]() ").split(",")]
        return [parse_text((), p) for p in parts if p]
    return text


@dataclass(frozen=True)
class Given:
    """A value from a named option: ``Given(30, "--epochs")``, so that provenance names what was typed."""

    value: object
    source: str


def override_layer(overrides: Mapping[str, object]) -> Layer:
    """Dotted key -> value; text is parsed as in the environment."""
    layer = Layer()
    for name, raw in overrides.items():
        path = tuple(part.strip() for part in name.split("."))
        value, text = (raw.value, raw.source) if isinstance(raw, Given) else (raw, f"--set {name}")
        if isinstance(value, str):
            value = parse_text(path, value)
        elif isinstance(value, tuple):
            value = list(value)
        for inner, leaf in flatten({"": value}):
            layer.put((*path, *inner[1:]), leaf, Source(text, text))
    return layer
