"""Every configuration key with its kind, bounds, default and help, read off the schema once.

Error messages, the reference page, ``--set``, the wizard's forms and shell completion all use this.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ubq.config.schema import Config
from ubq.i18n import gettext as _

Path = tuple[str, ...]

KIND = {"integer": "integer", "number": "float", "string": "string", "boolean": "boolean", "object": "table"}
"""JSON schema's words for types -> TOML's."""


@dataclass(frozen=True)
class Key:
    """One configuration key.

    Args:
        path: ``("qat", "decoders", "epochs")``.
        kind: TOML's word for its type: integer, float, string, boolean, array or table.
        choices: the values of a closed choice, else empty.
        default: as JSON; the table itself for tables.
        help: its docstring.
        schema: its JSON schema, with references resolved.
    """

    path: Path
    kind: str
    choices: tuple[str, ...]
    default: Any
    help: str
    schema: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Dotted name, as ``--set`` takes it."""
        return ".".join(self.path)

    @property
    def allowed(self) -> str:
        """What may stand there, in words, with bounds and choices."""
        return words(self.schema)

    @property
    def environment(self) -> str:
        """Its environment variable."""
        return "UBQ_" + "__".join(self.path).upper()


def toml_value(value: object) -> str:
    """``value`` as TOML writes it in one line; what it cannot write is shown as text."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + "}"
    return str(value)


def _number(schema: Mapping[str, Any], kind: str) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = []
    if low is not None:
        parts.append(f">= {low:g}")
    if above is not None:
        parts.append(f"> {above:g}")
    if high is not None and high < 2**31 - 1:
        parts.append(f"<= {high:g}")
    if below is not None and below < 2**31:
        parts.append(f"< {below:g}")
    bounds = _(" and ").join(parts)
    return f"{kind} {bounds}" if parts else kind


def words(schema: Mapping[str, Any]) -> str:
    """What a (reference-free) JSON schema allows, in TOML's words."""
    if "anyOf" in schema:
        return _(", or ").join(words(s) for s in schema["anyOf"])
    if "const" in schema:
        return toml_value(schema["const"])
    if "enum" in schema:
        return _("one of {values}").format(values=", ".join(toml_value(v) for v in schema["enum"]))
    if schema.get("pattern") and "auto|cpu" in schema["pattern"]:
        return _('"auto", "cpu", "cuda" or "cuda:N"')
    kind = schema.get("type", "")
    if kind == "array":
        if "prefixItems" in schema:
            count, items = len(schema["prefixItems"]), words(schema["prefixItems"][0])
            return _("{count} values [{places}], each {items}").format(
                count=count, places=", ".join(["…"] * count), items=items
            )
        items = words(schema.get("items", {}))
        if schema.get("minItems", 0):
            return _("list of at least {count}, each {items}").format(count=schema["minItems"], items=items)
        return _("list, each {items}").format(items=items)
    if kind in ("integer", "number"):
        return _number(schema, _("integer") if kind == "integer" else _("float"))
    return {"string": _("string"), "boolean": _("boolean"), "object": _("table")}.get(kind, _("value"))


def _choices(schema: Mapping[str, Any]) -> tuple[str, ...]:
    if "enum" in schema:
        return tuple(schema["enum"])
    if "const" in schema:
        return (schema["const"],)
    if "anyOf" in schema:
        return tuple(c for s in schema["anyOf"] for c in _choices(s))
    return _choices(schema["items"]) if "items" in schema else ()


@cache
def json_schema() -> Mapping[str, Any]:
    """JSON schema of a configuration file."""
    return Config.model_json_schema()


def _resolve(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """``schema`` with its reference followed; keys beside the reference (default, description) win."""
    if "$ref" in schema:
        target = json_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        return {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


@cache
def all_keys() -> Mapping[Path, Key]:
    """Every key and table, tables before their keys, in the schema's order."""
    keys: dict[Path, Key] = {}

    def walk(path: Path, table: Mapping[str, Any]) -> None:
        # Plain keys first: in TOML a table's own keys stand before its sub-tables.
        properties = {k: _resolve(v) for k, v in table["properties"].items()}
        for name, schema in sorted(properties.items(), key=lambda item: "properties" in item[1]):
            key_path = (*path, name)
            kind = "array" if schema.get("type") == "array" else KIND.get(schema.get("type", ""), "string")
            keys[key_path] = Key(
                key_path, kind, _choices(schema), schema.get("default"), schema.get("description", ""), schema
            )
            if "properties" in schema:
                walk(key_path, schema)

    walk((), json_schema())
    return keys


def leaves() -> Mapping[Path, Key]:
    """The keys without the tables."""
    return {path: key for path, key in all_keys().items() if key.kind != "table"}


@cache
def paths() -> frozenset[Path]:
    """The keys whose text is a path: ``~`` is expanded in them, and a run keeps them absolute."""
    return frozenset(path for path, key in leaves().items() if key.schema.get("format") == "path")


def siblings(path: Path) -> Sequence[str]:
    """Names that may stand where ``path`` stands."""
    return [p[-1] for p in all_keys() if p[:-1] == path[:-1]]


def did_you_mean(text: str, among: Sequence[str]) -> str:
    """The closest of ``among``, or an empty string."""
    close = difflib.get_close_matches(text.lower(), [a.lower() for a in among], n=1, cutoff=0.6)
    return next((a for a in among if close and a.lower() == close[0]), "")


def suggest_key(path: Path) -> str:
    """The known key that an unknown one most likely stands for, dotted; empty when none is close."""
    near = did_you_mean(path[-1], siblings(path))
    if near:
        return ".".join((*path[:-1], near))
    elsewhere = [".".join(p) for p in all_keys() if p[-1] == path[-1]]
    return elsewhere[0] if elsewhere else did_you_mean(".".join(path), [".".join(p) for p in all_keys()])
