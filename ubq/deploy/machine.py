"""Whether the machine at the other end can run a bundle: looked at before anything is copied."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from ubq.deploy import look
from ubq.deploy.ssh import Connection
from ubq.deploy.target import Target
from ubq.errors import PreflightError, StageError
from ubq.export.bundle.guide import VENV
from ubq.export.runtimes import CORTEX_A72, ONNX, PI_TORCH, Runtime
from ubq.i18n import gettext as _

OLDEST_PYTHON = (3, 10)
_ARCHITECTURES = ("aarch64", "arm64", "x86_64", "amd64")
_ILLEGAL_FROM, _CUDA_FROM = Version("2.10"), Version("2.11")
_THROTTLING = (
    (0, "under-voltage"), (1, "frequency capped"), (2, "throttled"), (3, "soft temperature limit"),
    (16, "under-voltage since the start"), (17, "frequency was capped"), (18, "was throttled"),
    (19, "soft temperature limit was reached"),
)  # fmt: skip
"""Bits of ``vcgencmd get_throttled`` (Raspberry Pi documentation)."""

_SYSTEM = """
p=$1
while [ ! -d "$p" ]; do p=$(dirname -- "$p"); done
cd -- "$p" && [ -w . ] || { echo "$p" >&2; exit 13; }
uname -m
getconf LONG_BIT 2>/dev/null || echo 0
df -Pk . | tail -n 1 | awk '{print $4}'
"""
_PYTHON = """
for p in "$@"; do
  case $p in "~/"*) p=$HOME/${p#"~/"} ;; esac
  if command -v "$p" >/dev/null 2>&1; then exec "$p" -; fi
done
exit 127
"""


@dataclass(frozen=True)
class System:
    """What the shell there says.

    Attributes:
        machine: ``uname -m``.
        bits: of its programs; 0 where it does not say.
        free_bytes: where the bundle goes.
    """

    machine: str
    bits: int
    free_bytes: int


@dataclass(frozen=True)
class Machine:
    """What the Python there says (``ubq.deploy.look``)."""

    python: tuple[int, ...]
    executable: str
    bits: int
    machine: str
    model: str
    cpu_parts: Sequence[str]
    libraries: Mapping[str, str]
    memory_mb: int
    temperature: float | None
    throttled: int | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``ubq deploy --json``."""
        return {**vars(self), "throttling": throttling(self.throttled)}


def look_at_system(connection: Connection, target: Target) -> System:
    """Ask the shell there.

    Raises:
        PreflightError: the folder may not be written, or the system is a 32-bit one.
        UbqError: the connection failed.
    """
    done = connection.run(_SYSTEM, target.path)
    lines = done.stdout.split()
    if done.code == 13:
        folder = done.stderr.strip().splitlines()[-1]
        raise PreflightError(
            _("{host}: {folder} may not be written to").format(host=target.host, folder=folder),
            _("give a folder of your own, such as {host}:ubq").format(host=target.host),
        )
    if done.code or len(lines) != 3:
        raise StageError(
            _("{host} cannot be looked at: {error}").format(host=target.host, error=_last_line(done.stderr)),
            _("does it have a shell: ssh {host} uname -m").format(host=target.host),
        )
    system = System(lines[0], int(lines[1]), int(lines[2]) * 1024)
    _refuse_architecture(target.host, system.machine, system.bits or 64)
    return system


def look_at_python(connection: Connection, python: str) -> Machine:
    """Ask the Python there.

    Args:
        connection: to the machine.
        python: its Python; empty: that of the guide's virtual environment, else ``python3``.

    Raises:
        PreflightError: it is not there, is too old, or is a 32-bit one.
        UbqError: the connection failed.
    """
    candidates = [python] if python else [f"{VENV}/bin/python", "python3"]
    done = connection.run(_PYTHON, *candidates, stdin=Path(look.__file__).read_bytes())
    host = connection.host
    if done.code == 127:
        raise PreflightError(
            _("{host} has no {python}").format(host=host, python=candidates[-1]),
            _("give another with --python") if python else _("there: {command}").format(
                command="sudo apt install python3 python3-venv"
            ),
        )  # fmt: skip
    try:
        facts = json.loads(done.stdout)
        machine = Machine(**{**facts, "python": tuple(facts["python"])})
    except (ValueError, TypeError, KeyError) as error:
        raise PreflightError(
            _("{python} on {host} does not work: {error}").format(
                python=python or "python3", host=host, error=_last_line(done.stderr) or f"exit {done.code}"
            ),
            _("give another with --python"),
        ) from error
    _refuse_architecture(host, machine.machine, machine.bits)
    if machine.python < OLDEST_PYTHON:
        raise PreflightError(
            _("{host} has Python {found}, and the model needs {oldest} or newer").format(
                host=host, found=".".join(map(str, machine.python)), oldest=".".join(map(str, OLDEST_PYTHON))
            ),
            _("install Raspberry Pi OS Bookworm or newer, or give another Python with --python"),
        )
    return machine


def choose_runtime(machine: Machine, offered: Sequence[Runtime]) -> Runtime:
    """The first of the offered runtimes that is fit for it, installed or not: the others take three times as long."""
    return next((r for r in offered if not _stops(machine, r)), offered[0])


def refuse_unfit(machine: Machine, runtime: Runtime, host: str, python: str) -> None:
    """Refuse a machine that cannot run the bundle, or whose libraries cannot.

    Args:
        machine: as it was found.
        runtime: that is to be used.
        host: for ssh.
        python: what the user gave; empty when it was found.

    Raises:
        PreflightError: the processor is known to fail; a library is missing, or is of a version known to fail.
    """
    if _stops(machine, runtime):
        raise PreflightError(
            _("{runtime} stops with an illegal instruction on {host}").format(
                runtime=runtime.title, host=machine.model or host
            ),
            _("use another: --runtime {name}").format(name=ONNX.name),
        )
    needed = [package.partition("==")[0] for package in runtime.packages]
    missing = [name for name in needed if name not in machine.libraries]
    install = install_line(runtime, host, python)
    if missing:
        raise PreflightError(
            _("{python} on {host} lacks {modules}").format(
                python=machine.executable, host=host, modules=", ".join(missing)
            ),
            install,
        )
    problem = torch_problem(machine) if "torch" in needed else ""
    if problem:
        raise PreflightError(f"{host}: {problem}", install)


def _stops(machine: Machine, runtime: Runtime) -> bool:
    return bool(set(machine.cpu_parts) & set(runtime.stops_on))


def torch_problem(machine: Machine) -> str:
    """Why the PyTorch there is known to fail; empty where it is not. Sources: see ``PI_TORCH``."""
    text = machine.libraries["torch"]
    try:
        version = Version(text)
    except InvalidVersion:
        return ""
    if machine.machine not in ("aarch64", "arm64"):
        return ""
    if version >= _CUDA_FROM and version.local != "cpu":
        return _("torch {version} is a CUDA build, which a Raspberry Pi cannot use").format(version=text)
    if _ILLEGAL_FROM <= version < _CUDA_FROM and CORTEX_A72 in machine.cpu_parts:
        return _("torch {version} stops with an illegal instruction on a Raspberry Pi 4").format(version=text)
    return ""


def install_line(runtime: Runtime, host: str, python: str) -> str:
    """The command that installs a runtime there."""
    packages = runtime.pip_arguments
    if python:
        return f"ssh {host} {shlex.quote(f'{python} -m pip install {packages}')}"
    return f"ssh {host} {shlex.quote(f'python3 -m venv {VENV} && {VENV}/bin/pip install {packages}')}"


def throttling(bits: int | None) -> list[str]:
    """What the firmware's bits say, now and since the start; empty when all is well or it does not say."""
    return [text for bit, text in _THROTTLING if bits is not None and bits >> bit & 1]


def _refuse_architecture(host: str, machine: str, bits: int) -> None:
    if machine in _ARCHITECTURES and bits == 64:
        return
    what = machine if machine not in _ARCHITECTURES else _("{machine} with a {bits}-bit system").format(
        machine=machine, bits=bits
    )  # fmt: skip
    raise PreflightError(
        _("{host} is {what}, and PyTorch and ONNX Runtime need a 64-bit system").format(host=host, what=what),
        _("install the 64-bit Raspberry Pi OS ({torch} has no wheels for another)").format(torch=f"torch {PI_TORCH}"),
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
