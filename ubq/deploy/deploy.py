"""The whole way of a bundle onto another machine: look, copy, try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ubq.deploy.copy import Copied, Wanted, copy_files
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
from ubq.export.bundle import Bundle
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
    """Copy what one runtime needs of a bundle, and try it.

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
        copied = copy_files(connection, target, _wanted(bundle, runtime), system.free_bytes, progress)
        told = None
        if smoke:
            install = install_line(runtime, target.host, python)
            told = sample_there(connection, target, machine.executable, runtime, install)
            machine = look_at_python(connection, python)
        return Deployed(runtime, machine, copied, told)


def _wanted(bundle: Bundle, runtime: Runtime) -> list[Wanted]:
    known = {entry["name"]: (entry["bytes"], entry["sha256"]) for entry in bundle.manifest["files"]}
    manifest = bundle.folder / MANIFEST
    known[MANIFEST] = (manifest.stat().st_size, sha256(manifest))
    return [Wanted(bundle.folder / name, *known[name]) for name in bundle.files_for(runtime)]
