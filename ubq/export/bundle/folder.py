"""The bundle: one folder, and one archive, with everything that a Raspberry Pi needs of an exported model.

Light: imports neither torch nor numpy.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ubq.durable import dump_json, replacing, write_atomic
from ubq.errors import UsageError
from ubq.export.bundle import generate
from ubq.export.bundle.guide import bundle_guide_text
from ubq.export.guide import GUIDE
from ubq.export.manifest import MANIFEST, damaged_files, facts_from, read_manifest, sha256
from ubq.export.runtimes import Runtime, runtimes_of
from ubq.i18n import gettext as _
from ubq.runtime.facts import Facts

SCRIPT = "generate.py"
MODULES = {"wave_equation.py": "wave.py", "noise.py": "noise.py", "processor.py": "processor.py"}
"""Name beside the script, which loads it -> the module of ``ubq.runtime``; these need numpy and nothing of ubq."""
_ARCHIVED_MODE = 0o644


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder.

    Attributes:
        folder: that holds the files.
        manifest: content of its ``manifest.json``.
        runtimes: that it has the files for, the one to prefer first.
    """

    folder: Path
    manifest: dict[str, Any]
    runtimes: Sequence[Runtime]

    def files_for(self, runtime: Runtime) -> list[str]:
        """Names of the files that one runtime needs, ``manifest.json`` last."""
        of_others = {
            name
            for other in self.runtimes
            if other is not runtime
            for name in (*model_files(self.manifest["name"], other), other.requirements)
        }
        needed = set(model_files(self.manifest["name"], runtime)) | {runtime.requirements}
        names = [entry["name"] for entry in self.manifest["files"]]
        return [n for n in names if n in needed or n not in of_others] + [MANIFEST]


def model_files(name: str, runtime: Runtime) -> list[str]:
    """Names of a runtime's files of the model ``name``."""
    return [name + suffix for suffix in runtime.suffixes]


def open_bundle(folder: Path) -> Bundle:
    """A bundle that was made before.

    Raises:
        UsageError: not a bundle, or a file is missing or is not what the manifest says.
    """
    manifest = read_manifest(folder / MANIFEST)
    names = [entry["name"] for entry in manifest["files"]]
    if SCRIPT not in names:
        raise UsageError(_("{folder} is not a bundle").format(folder=folder), _("make one: ubq export RUN --bundle"))
    _refuse_damage(folder)
    return Bundle(folder, manifest, runtimes_of(manifest["name"], names))


def make_bundle(exported: Path, out: Path | None = None) -> Bundle:
    """Make the folder ``<name>-bundle`` of a folder ``exported_models``; an older one is replaced whole.

    Args:
        exported: with ``manifest.json`` and the files it lists.
        out: folder to make it in; ``exported`` when None.

    Raises:
        UsageError: ``exported`` holds no exported model, or a file is missing or is not what the manifest says.
    """
    source = read_manifest(exported / MANIFEST)
    _refuse_damage(exported)
    name, listed = source["name"], [entry["name"] for entry in source["files"]]
    facts, runtimes = facts_from(source), runtimes_of(name, listed)
    if not runtimes:
        raise UsageError(_("{folder} holds no model file").format(folder=exported), _("export the model again"))
    folder = (out or exported) / f"{name}-bundle"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        for file in (n for n in listed if n != GUIDE):
            _link_or_copy(exported / file, new / file)
        (new / SCRIPT).write_bytes(Path(generate.__file__).read_bytes())
        for own, module in MODULES.items():  # as resources: importing them would import numpy
            (new / own).write_bytes((resources.files("ubq") / "runtime" / module).read_bytes())
        for runtime in runtimes:
            (new / runtime.requirements).write_text("".join(f"{p}\n" for p in runtime.installed), encoding="utf-8")
        sizes = {r: sum((new / n).stat().st_size for n in model_files(name, r)) for r in runtimes}
        (new / GUIDE).write_text(bundle_guide_text(facts, sizes), encoding="utf-8")
        manifest = _bundle_manifest(new, facts, source)
        write_atomic(new / MANIFEST, dump_json(manifest, indent=2))
        if folder.exists():
            os.replace(folder, Path(temporary) / "old")
        os.replace(new, folder)
    return Bundle(folder, manifest, runtimes)


def pack(bundle: Bundle) -> Path:
    """Write ``<name>-bundle.tar.gz`` beside a bundle's folder; the same files give the same bytes."""
    path = bundle.folder.with_name(f"{bundle.folder.name}.tar.gz")
    names = sorted([*(entry["name"] for entry in bundle.manifest["files"]), MANIFEST])
    with (
        replacing(path) as temporary,
        temporary.open("wb") as raw,
        # level 1: int8 weights hardly compress, whatever the effort
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in names:
            entry = tarfile.TarInfo(f"{bundle.folder.name}/{name}")
            entry.size, entry.mode = (bundle.folder / name).stat().st_size, _ARCHIVED_MODE
            with (bundle.folder / name).open("rb") as file:
                archive.addfile(entry, file)
    return path


def _bundle_manifest(folder: Path, facts: Facts, source: dict[str, Any]) -> dict[str, Any]:
    known = {entry["name"]: entry["sha256"] for entry in source["files"] if entry["name"] != GUIDE}
    files = [
        {"name": f.name, "bytes": f.stat().st_size, "sha256": known.get(f.name) or sha256(f)}
        for f in sorted(folder.iterdir())
    ]
    return {**facts.to_json(), "files": files, "weights_sha256": source["weights_sha256"]}


def _refuse_damage(folder: Path) -> None:
    damaged = damaged_files(folder / MANIFEST)
    if damaged:
        raise UsageError(
            _("{folder}: not as the manifest says: {files}").format(folder=folder, files=", ".join(damaged)),
            _("export the model again"),
        )


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes where the file system can: exported files are replaced, never rewritten."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
