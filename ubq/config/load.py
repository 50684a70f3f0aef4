"""Loading a configuration: defaults < preset < user file < project file < environment < command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ubq.config import keys, presets
from ubq.config.extras import install_line, missing_modules
from ubq.config.findings import ConfigError, Finding
from ubq.config.layers import (
    ENVIRONMENT_PREFIX,
    Entry,
    Given,
    Layer,
    Source,
    inherit,
    nested,
    override_layer,
    read_layer,
)
from ubq.config.runs import PROJECT_FILE, expanded, user_file
from ubq.config.schema import Config, Contradiction
from ubq.errors import UsageError
from ubq.i18n import gettext as _

DEFAULT = Source("default", "default")

__all__ = [
    "PROJECT_FILE",
    "ConfigError",
    "Finding",
    "Given",
    "Loaded",
    "load_config",
    "parse_assignments",
    "read_frozen",
    "write_frozen",
]


@dataclass(frozen=True)
class Loaded:
    """A valid configuration and where each of its values comes from.

    Args:
        config: the values.
        provenance: dotted key -> ``preset demo``, ``ubq.toml:12``, ``UBQ_QAT__EPOCHS``,
            ``--set qat.epochs``, ``default``.
        preset: name of the preset underneath; empty when there is none.
    """

    config: Config
    provenance: Mapping[str, str]
    preset: str


def parse_assignments(assignments: Iterable[str]) -> dict[str, object]:
    """``["qat.epochs=3"]`` as overrides.

    Raises:
        UsageError: one has no ``=``.
    """
    overrides: dict[str, object] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(_("--set {text}: not KEY=VALUE").format(text=text), "--set qat.epochs=30")
        overrides[key.strip()] = value.strip()
    return overrides


def load_config(
    preset: str | None = None,
    overrides: Mapping[str, object] | None = None,
    project_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    isolated: bool = False,
    project_text: str | None = None,
) -> Loaded:
    """Merge all layers and validate the result.

    Args:
        preset: preset to build on; wins over every ``extends``.
        overrides: dotted key -> value, the highest layer; text is read as a TOML value where it is one.
        project_file: project configuration; None: ``ubq.toml`` in the working folder, if it is there.
        environ: environment; None: this process's.
        isolated: only what is named here counts: no user file, no ./ubq.toml, no environment.
        project_text: content that ``project_file`` is to have; None: what it has.

    Raises:
        ConfigError: with every mistake of every layer.
    """
    above = Layer()
    user_config = None if isolated else user_file()
    if user_config is not None:
        above.over(inherit(read_layer(user_config)))
    project = Path(PROJECT_FILE) if project_file is None else project_file
    has_project = project_file is not None or (not isolated and project.is_file())
    if has_project:
        above.over(inherit(read_layer(project, text=project_text)))
    if environ is None:
        environ = {} if isolated else os.environ
    above.over(inherit(environment_layer(environ)))
    above.over(inherit(override_layer(overrides or {})))

    if preset:
        above.put(("extends",), preset, Source("--preset", "--preset"))
    chosen = above.entries.get(("extends",))
    values = Layer()
    if chosen and chosen.value:
        is_project = has_project and chosen.source.file == str(project)
        home = project.parent if is_project else Path()
        values.over(_extended(chosen, home, ()))
        above.put(("extends",), _absolute(chosen.value, home), chosen.source)
    elif not has_project:
        raise ConfigError([_nothing_chosen()])
    name = _preset_name(chosen.value) if chosen else ""
    values.over(above)
    for key in (("run", "name"), ("export", "name")):
        if name and key not in values.entries:
            values.put(key, name, Source(f"preset {name}", f"preset {name}"))
    _expand(values)
    config = _validate(values)
    return Loaded(config, _provenance(config, values), name)


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """``UBQ_QAT__EPOCHS=3`` and the like; see :class:`ubq.config.environment.EnvironmentSource`."""
    if not any(name.startswith(ENVIRONMENT_PREFIX) for name in environ):
        return Layer()
    from ubq.config.environment import EnvironmentSource

    return EnvironmentSource(environ).layer()


def _nothing_chosen() -> Finding:
    return Finding(
        file=_("command line"),
        line=None,
        key="",
        given="",
        allowed=_("no preset chosen and no ubq.toml here; presets: {names}").format(names=presets.overview()),
        suggestion="ubq run --preset demo",
    )


def _preset_name(extends: Any) -> str:
    last = extends[-1] if isinstance(extends, (list, tuple)) and extends else extends
    return Path(last).stem if isinstance(last, str) else ""


def _absolute(extends: Any, home: Path) -> Any:
    """``extends`` with paths that mean the same from anywhere, as a run's frozen configuration needs them."""
    if isinstance(extends, str) and presets.is_path(extends):
        return str((home / os.path.expanduser(extends)).absolute())
    return [_absolute(e, home) for e in extends] if isinstance(extends, list | tuple) else extends


def _extended(entry: Entry, relative_to: Path, chain: tuple[str, ...]) -> Layer:
    """The layer that the presets named by ``entry`` make together, each with what it extends."""
    layer = Layer()

    def bad(value: object, allowed: str, suggestion: str = "") -> None:
        layer.findings.append(
            Finding(
                file=entry.source.file,
                line=entry.source.line,
                key="extends",
                given=keys.toml_value(value),
                allowed=allowed,
                suggestion=suggestion,
            )
        )

    extends = [entry.value] if isinstance(entry.value, str) else entry.value
    if not isinstance(extends, list | tuple) or not all(isinstance(e, str) for e in extends):
        return layer  # the schema names this mistake
    for name in extends:
        if not name:
            continue
        file = presets.find(name, relative_to)
        if file is None:
            near = "" if presets.is_path(name) else keys.did_you_mean(name, presets.names())
            allowed = _("a preset: {names}").format(names=presets.overview())
            if presets.is_path(name):
                allowed = _("a TOML file that exists")
            bad(name, allowed, _("did you mean {name}?").format(name=near) if near else "ubq presets list")
            continue
        identity = str(file.resolve())
        if identity in chain:
            loop = " -> ".join(Path(f).stem for f in (*chain[chain.index(identity) :], identity))
            bad(name, _("presets that do not extend each other in a circle: {loop}").format(loop=loop))
            continue
        shipped = not presets.is_path(name)
        preset_layer = read_layer(file, str(file), f"preset {name}" if shipped else "")
        preset_layer = inherit(preset_layer)
        below = preset_layer.entries.pop(("extends",), None)
        if below:
            layer.over(_extended(below, file.parent, (*chain, identity)))
        layer.over(preset_layer)
    return layer


def _expand(values: Layer) -> None:
    """Replace ``~`` in every key that is a path."""
    for path, entry in list(values.entries.items()):
        if path in keys.paths() and isinstance(entry.value, str) and entry.value.startswith("~"):
            try:
                values.entries[path] = replace(entry, value=expanded(entry.value))
            except UsageError as error:
                source = entry.source
                values.findings.append(
                    Finding(
                        file=source.file,
                        line=source.line,
                        key=".".join(path),
                        given=keys.toml_value(entry.value),
                        allowed=error.message,
                        suggestion=error.fix,
                    )
                )


def _validate(values: Layer) -> Config:
    """The configuration, or every mistake: a bad value is set aside and the rest is judged again."""
    findings = list(values.findings)
    complete = not findings
    entries = dict(values.entries)
    bad: set[keys.Path] = set()
    config: Config | None = None
    while config is None:
        try:
            config = Config.model_validate(nested(entries), strict=True)
        except ValidationError as error:
            before = len(entries)
            for problem in error.errors(include_url=False):
                if problem["type"] == "contradiction":
                    for c in problem["ctx"]["contradictions"]:
                        table = tuple(str(p) for p in problem["loc"])
                        finding = _contradiction(c, table, entries)
                        involved = {(*table, *k.split(".")) for k in c.keys}
                        if complete and not involved & bad:
                            findings.append(finding)
                        bad |= involved | _set_aside(involved, entries)
                else:
                    findings += _mistakes(_known(problem["loc"]), entries, bad)
            if len(entries) == before:
                raise  # a defect: the defaults themselves do not validate
    if complete:
        findings += _missing_extras(config, entries)
    if findings:
        unique = {(f.file, f.line, f.key, f.allowed): f for f in findings}
        raise ConfigError(sorted(unique.values(), key=lambda f: (f.file, f.line or 0)))
    return config


def _known(loc: tuple[int | str, ...]) -> keys.Path:
    """The key a pydantic location means: down to the first part that the schema does not have, or a leaf."""
    path: keys.Path = ()
    for part in loc:
        path = (*path, str(part))
        key = keys.all_keys().get(path)
        if key is None or key.kind != "table":
            break
    return path


def _mistakes(path: keys.Path, entries: dict[keys.Path, Entry], bad: set[keys.Path]) -> list[Finding]:
    """Findings for a key that is unknown or holds what it must not; its entries are taken out."""
    key = keys.all_keys().get(path)
    if key is None:
        allowed = _("not a key; [{table}] has {names}") if path[:-1] else _("not a key; there are {names}")
        allowed = allowed.format(table=".".join(path[:-1]), names=", ".join(keys.siblings(path)))
        near = keys.suggest_key(path)
        suggestion = _("did you mean {name}?").format(name=near) if near else ""
    else:
        allowed = key.allowed
        suggestion = ""
    hit = {p: e for p, e in entries.items() if p[: len(path)] == path}
    bad |= _set_aside(hit, entries)
    by_file: dict[str, dict[keys.Path, Entry]] = {}
    for p, entry in hit.items():
        if entry.written_as == p:  # else inherited from [qat]: said there
            by_file.setdefault(entry.source.file, {})[p] = entry
    findings = []
    for written in by_file.values():
        entry = next(iter(written.values()))
        value = entry.value if path in written else nested({p[len(path) :]: e for p, e in written.items()})
        if key is not None and key.choices:
            wrong = value
            if isinstance(value, list | tuple):
                wrong = next((v for v in value if v not in key.choices), "")
            near = keys.did_you_mean(str(wrong), key.choices)
            suggestion = _("did you mean {name}?").format(name=keys.toml_value(near)) if near else ""
        elif key is not None and isinstance(value, str) and key.kind in ("integer", "float", "boolean"):
            bare = value.lower() if key.kind == "boolean" else value
            suggestion = _("without quotes: {value}").format(value=bare) if _fits(key, bare) else ""
        findings.append(
            Finding(
                file=entry.source.file,
                line=entry.source.line,
                key=".".join(path),
                given=keys.toml_value(value),
                allowed=allowed if key is None or key.kind != "table" else _("a table of keys"),
                suggestion=suggestion,
            )
        )
    return findings


def _set_aside(paths: Iterable[keys.Path], entries: dict[keys.Path, Entry]) -> set[keys.Path]:
    """Take ``paths`` out of ``entries``, with all that was written by the same keys."""
    origins = {entries[p].written_as for p in paths if p in entries}
    removed = {p for p, entry in entries.items() if entry.written_as in origins}
    for path in removed:
        del entries[path]
    return removed


def _fits(key: keys.Key, text: str) -> bool:
    from ubq.config.layers import parse_text

    value = parse_text(key.path, text)
    kind: dict[str, type | tuple[type, ...]] = {"integer": int, "float": (int, float), "boolean": bool}
    return isinstance(value, kind[key.kind]) and (key.kind == "boolean" or not isinstance(value, bool))


def _contradiction(c: Contradiction, table: keys.Path, entries: Mapping[keys.Path, Entry]) -> Finding:
    """Blames the topmost layer that wrote one of the keys, and there the first in ``c.keys``."""
    paths = [(*table, *k.split(".")) for k in c.keys]
    # Entries stand in the order of their layers.
    topmost = [entry.source.file for p, entry in entries.items() if p in paths][-1:]
    written = next((p for p in paths if p in entries and entries[p].source.file in topmost), paths[0])
    entry = entries.get(written)
    source = entry.source if entry else DEFAULT
    value = entry.value if entry else keys.all_keys()[written].default
    name = ".".join(entry.written_as if entry else written)
    prefix = "" if written == paths[0] else ".".join(paths[0]) + ": "
    return Finding(
        file=source.file,
        line=source.line,
        key=name,
        given=keys.toml_value(value),
        allowed=prefix + c.allowed,
        suggestion=c.suggestion,
    )


def _missing_extras(config: Config, entries: Mapping[keys.Path, Entry]) -> list[Finding]:
    """Values whose optional package is not installed here."""
    extras: list[tuple[keys.Path, str]] = [(("export", "formats"), f) for f in config.export.formats]
    extras.append((("tracking",), config.tracking))
    findings = []
    for path, extra in extras:
        missing = missing_modules(extra)
        if missing:
            source = entries[path].source if path in entries else DEFAULT
            findings.append(
                Finding(
                    file=source.file,
                    line=source.line,
                    key=".".join(path),
                    given=keys.toml_value(extra),
                    allowed=_("not installed here: {modules}").format(modules=", ".join(missing)),
                    suggestion=install_line(extra),
                )
            )
    return findings


def _provenance(config: Config, values: Layer) -> dict[str, str]:
    """Where each key of ``config`` comes from."""
    provenance = {}
    for path in keys.leaves():
        entry = values.entries.get(path)
        if entry is None:
            provenance[".".join(path)] = DEFAULT.text
        elif entry.written_as == path:
            provenance[".".join(path)] = entry.source.text
        else:
            provenance[".".join(path)] = f"{entry.source.text} ({'.'.join(entry.written_as)})"
    return provenance


def write_frozen(config: Config, provenance: Mapping[str, str] | None = None) -> str:
    """The whole configuration as TOML, every key spelled out: what a run's ``config.toml`` holds.

    Args:
        config: the values.
        provenance: ``Loaded.provenance``; becomes a comment behind each value.
    """
    from ubq.config.rendering import as_toml

    return as_toml(config, provenance)


def read_frozen(file: Path, overrides: Mapping[str, object] | None = None) -> Config:
    """A configuration that ``write_frozen`` wrote: no presets, no look at this machine.

    Args:
        file: the run's ``config.toml``.
        overrides: dotted key -> value, laid over it as ``load_config`` does.

    Raises:
        ConfigError: it cannot be read, a key is not one of this version's, or an override is wrong.
    """
    layer = read_layer(file)
    if layer.findings:
        raise ConfigError(layer.findings)
    if overrides:
        layer.over(inherit(override_layer(overrides)))
    _expand(layer)
    return _validate_frozen(layer)


def _validate_frozen(layer: Layer) -> Config:
    if layer.findings:
        return _validate(layer)
    try:
        return Config.model_validate(nested(layer.entries), strict=True)
    except ValidationError:
        return _validate(layer)
