"""The whole way of a bundle onto another machine: look, copy, try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ubq.deploy.copy import BundleFile, Copied, copy_files, outdated
from ubq.deploy.machine import (
    Machine,
    choose_runtime,
    install_line,
    look_at_python,
    look_at_system,
    refuse_unfit,
)
from ubq.deploy.smoke import sample_there
from ubq.deploy.ssh import Connection
from ubq.deploy.target import Target
from ubq.export.bundle.folder import Bundle
from ubq.export.manifest import MANIFEST, sha256
from ubq.export.runtimes import Runtime


@dataclass(frozen=True)
class Deployed:
    """What was done.

    Attributes:
        runtime: that the files are for.
        machine: as it was found, after the sample run where there was one.
        files: that now lie there.
        smoke: what the sample run told; None without one.
    """

    runtime: Runtime
    machine: Machine
    files: Sequence[Copied]
    smoke: dict[str, Any] | None


def deploy(
    bundle: Bundle,
    target: Target,
    runtimes: Sequence[Runtime],
    python: str,
    smoke: bool,
    progress: Callable[[int, int], None],
) -> Deployed:
    """Copy what one runtime needs of a bundle, bring what lies there for others up to date, and try it.

    Args:
        bundle: to copy from.
        target: where to.
        runtimes: that may be chosen from, the one to prefer first.
        python: Python there; empty: that of the guide's virtual environment, else ``python3``.
        smoke: draw a sample there.
        progress: called with (done, all) bytes.

    Raises:
        PreflightError: the machine cannot be reached, or cannot run the bundle; nothing was copied.
        StageError: copying or the sample run failed.
    """
    with Connection(target.host) as connection:
        system = look_at_system(connection, target)
        machine = look_at_python(connection, python)
        runtime = choose_runtime(machine, runtimes)
        refuse_unfit(machine, runtime, target.host, python)
        needed, others = _files_for(bundle, runtime)
        # files of other runtimes from an earlier version would still be found by generate.py
        needed = [*outdated(connection, target, others), *needed]
        copied = copy_files(connection, target, needed, system.free_bytes, progress)
        sample = None
        if smoke:
            install = install_line(runtime, target.host, python)
            sample = sample_there(connection, target, machine.executable, runtime, install)
            machine = look_at_python(connection, python)
        return Deployed(runtime, machine, copied, sample)


def _files_for(bundle: Bundle, runtime: Runtime) -> tuple[list[BundleFile], list[BundleFile]]:
    """The files that a runtime needs, the manifest last, and those for others alone."""
    known = {entry["name"]: (entry["bytes"], entry["sha256"]) for entry in bundle.manifest["files"]}
    manifest = bundle.folder / MANIFEST
    known[MANIFEST] = (manifest.stat().st_size, sha256(manifest))
    needed = bundle.files_for(runtime)
    others = [name for name in known if name not in needed]
    files = {name: BundleFile(bundle.folder / name, *known[name]) for name in (*needed, *others)}
    return [files[name] for name in needed], [files[name] for name in others]
