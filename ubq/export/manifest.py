"""``manifest.json``: what an exported model is, and what its files must be to the byte.

Light: imports neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ubq.durable import dump_json, parse_json, write_atomic
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.facts import FORMAT_VERSION, Facts, check_facts, is_file_name

MANIFEST = "manifest.json"


def write_manifest(folder: Path, facts: Facts, files: Iterable[Path], weights_sha256: str | None) -> Path:
    """Write ``manifest.json`` for files that lie in ``folder``.

    Args:
        folder: ``exported_models``.
        facts: of the model.
        files: to list, with size and hash.
        weights_sha256: of the int8 layers (``ubq.export.readback.digest``); None for a float file.
    """
    listed = [{"name": f.name, "bytes": f.stat().st_size, "sha256": sha256(f)} for f in files]
    path = folder / MANIFEST
    write_atomic(path, dump_json({**facts.to_json(), "files": listed, "weights_sha256": weights_sha256}, indent=2))
    return path


def listed_files(folder: Path) -> list[Path]:
    """The files that a folder's manifest lists, itself among them; none where there is no manifest to read."""
    try:
        names = [str(entry["name"]) for entry in parse_json((folder / MANIFEST).read_bytes())["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [folder / name for name in (*names, MANIFEST) if name == Path(name).name]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read ``manifest.json``.

    Raises:
        UsageError: missing, damaged, or of a newer ubq.
    """
    try:
        manifest = parse_json(path.read_bytes())
        newer = manifest["format_version"] > FORMAT_VERSION
        if not newer:
            _check(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            _("{path} is not the manifest of an exported model").format(path=path), _("export the model again")
        ) from error
    if newer:
        raise UsageError(_("{path} was written by a newer ubq").format(path=path), _("upgrade ubq"))
    return manifest


def _check(manifest: Mapping[str, Any]) -> None:
    """Refuse what ``write_manifest`` does not write, and names that lead out of the folder.

    Raises:
        ValueError, TypeError, KeyError: there is such a thing.
    """
    check_facts(manifest)
    sound = isinstance(manifest.get("weights_sha256"), str | None) and all(
        type(entry["bytes"]) is int and isinstance(entry["sha256"], str) and is_file_name(entry["name"])
        for entry in manifest["files"]
    )
    if not sound:
        raise ValueError(manifest["name"])


def facts_from(manifest: Mapping[str, Any]) -> Facts:
    """The facts in a manifest that ``read_manifest`` gave.

    Raises:
        UsageError: one is missing.
    """
    try:
        facts = Facts.from_json(manifest)
    except KeyError as error:
        raise UsageError(
            _("the manifest lacks {key}").format(key=error.args[0]), _("export the model again")
        ) from error
    return replace(
        facts,
        step_counts=tuple(facts.step_counts),
        velocity_shape=tuple(facts.velocity_shape),
        seismic_shape=tuple(facts.seismic_shape),
    )


def damaged_files(path: Path) -> list[str]:
    """Names of files that are missing beside a manifest, or are not what it lists."""
    bad = []
    for entry in read_manifest(path)["files"]:
        file = path.parent / entry["name"]
        if not file.is_file() or file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
            bad.append(entry["name"])
    return bad


def sha256(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
