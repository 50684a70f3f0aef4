"""What decides a stage's output, kept as values, so that a change can be told in values.

A fingerprint is a flat mapping:

- ``version``: the stage's ``version``, raised by hand;
- ``qat.epochs``: each configuration key that the stage reads;
- ``fact NAME``: its further facts;
- ``input PATH``: the content of each input file;
- ``after STAGE``: how often each wanted stage in ``after`` started over with other values;
- ``from STAGE: PATH``: the content of each of its outputs.

Source code is never hashed and a file's time is never looked at. Files up to 64 MiB count by the SHA-256
of their whole content. Larger ones (an OpenFWI file has 700 MB, a data set 75 GB) count by their size and
64 blocks of 32 KiB spread evenly from the first byte (an ``.npy`` header) to the last: another file, a
truncated one and a regenerated one are noticed, an edit of a few samples in place may not be;
``--force STAGE`` is for that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.config.rendering import values_of
from ubq.data.content import content_of
from ubq.data.files import PLACES
from ubq.durable import plain
from ubq.i18n import gettext as _
from ubq.stages.settings import TABLES

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.jobs.state import RunState
    from ubq.stages.base import Stage
    from ubq.stages.paths import RunPaths

Values = dict[str, Any]

# Keys that decide where, how often and how fast, never what comes out. Smaller parts of a batch are what a stage
# that runs out of memory changes to by itself, so that asking for them must not start it again either.
WITHOUT_EFFECT = ("extends", "run", "tracking", "data.workers", *(f"{table}.accumulate" for table in TABLES.values()))


def file_signature(path: Path) -> str:
    """Identity of a file's or folder's content; ``missing`` where there is none."""
    if not path.exists():
        return "missing"
    if path.is_dir():
        digest = hashlib.sha256()
        for child in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{child.relative_to(path).as_posix()} {file_signature(child)}\n".encode())
        return f"folder {digest.hexdigest()}"
    return content_of(path)


def config_values(config: Config) -> Values:
    """Every key of a configuration, dotted; lists are one value."""
    return {".".join(path): value for path, value in values_of(config).items()}


def fingerprint(
    stage: Stage, config: Config, paths: RunPaths, stages: Sequence[Stage], state: RunState | None
) -> Values:
    """The values that decide a stage's output now.

    Args:
        stage: whose.
        stages: the whole pipeline, for the outputs of ``stage.after``.
        state: the run's, for how often those started over.

    Raises:
        UbqError: the stage cannot list its inputs.
    """
    values: Values = {"version": stage.version}
    # where data are given, how many pairs would be synthesised decides nothing
    unread = (*WITHOUT_EFFECT, *(("data.synth_samples",) if config.data.train_velocity else ()))
    for key, value in config_values(config).items():
        if _covers(stage.reads, key) and not _covers(unread, key):
            values[key] = str(Path(value).expanduser().resolve()) if key in PLACES and value else value
    values |= {f"fact {name}": plain(value) for name, value in stage.facts(config).items()}
    values |= {f"input {Path(path).resolve()}": file_signature(Path(path)) for path in stage.inputs(config)}
    for other in stages:
        if other.name in stage.after and other.applies(config):
            entry = state.stage(other.name) if state else None
            values[f"after {other.name}"] = entry.generation if entry else 0
            for path in other.outputs(config, paths):
                values[f"from {other.name}: {relative(path, paths.root)}"] = file_signature(path)
    return values


def changes(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Why two fingerprints differ, one reason each, in values; empty where they do not.

    A configuration key that only one of them has was added or taken away by another version of ubq. It
    counts only if it is not at its default: a new knob left alone makes nothing out of date.
    """
    old = _as_spelled(old, new)
    reasons = []
    for key in [*new, *(k for k in old if k not in new)]:
        before, after = old.get(key), new.get(key)
        if key in old and key in new and before == after:
            continue
        kind, _sep, name = key.partition(" ")
        if key == "version":
            reasons.append(_("stage version {before} -> {after}").format(before=before, after=after))
        elif kind == "input":
            if key not in new and file_signature(Path(name)) == before:
                continue  # another ubq took it for data; which places are read stands in the keys
            reasons.append(_what_happened(name, key, old, new))
        elif kind == "after":
            reasons.append(_("{stage} ran again with other values").format(stage=name))
        elif kind == "from":
            other, _sep, path = name.partition(": ")
            path = _("{path} of {stage}").format(path=path, stage=other)
            reasons.append(_what_happened(path, key, old, new))
        elif kind == "fact":
            reasons.append(f"{name} {_text(before)} -> {_text(after)}")
        else:
            default = defaults.get(key)
            known = (before if key in old else default), (after if key in new else default)
            if known[0] != known[1] and (key in new or key in defaults):
                reasons.append(f"{key} {_text(known[0])} -> {_text(known[1])}")
    return reasons


def _as_spelled(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """An older fingerprint with its paths as a newer one spells them: runs of ubq 0.1.0 kept relative ones."""
    from ubq.config.keys import paths

    spelled = {}
    for key, value in old.items():
        if key.startswith("input ") and key not in new:
            path = key.removeprefix("input ")
            key = next((k for k in new if k.startswith("input ") and _same_path(path, k.removeprefix("input "))), key)
        elif tuple(key.split(".")) in paths() and _same_path(value, new.get(key)):
            value = new[key]
        spelled[key] = value
    return spelled


def _same_path(old: object, new: object) -> bool:
    """Whether an absolute path may be what a relative one meant."""
    if not (isinstance(old, str) and isinstance(new, str) and old and os.path.isabs(new)):
        return False
    return (
        not os.path.isabs(old)
        and Path(new).parts[-len(Path(os.path.normpath(old)).parts) :] == Path(os.path.normpath(old)).parts
    )


def _what_happened(path: str, key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if key not in old:
        return _("{path} is new").format(path=path)
    if key not in new:
        return _("{path} is no longer used").format(path=path)
    if new[key] == "missing":
        return _("{path} is missing").format(path=path)
    return _("{path} changed").format(path=path)


def _covers(keys: Iterable[str], key: str) -> bool:
    return any(key == k or key.startswith(k + ".") for k in keys)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | list | dict) else str(value).lower()


def relative(path: Path, root: Path) -> str:
    """A path inside the run's folder as state and messages name it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
