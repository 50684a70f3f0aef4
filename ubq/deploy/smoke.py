"""One sample run on the machine that a bundle was copied to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ubq.deploy.ssh import Connection
from ubq.deploy.target import Target
from ubq.errors import StageError
from ubq.export.runtimes import Runtime
from ubq.i18n import gettext as _

_PAIRS = 2
"""The first pays for what a runtime does once; the second is timed."""
_GENERATE = """
out=$(mktemp -d) || exit
trap 'rm -rf "$out"' EXIT
cd -- "$1" && "$2" generate.py --count "$3" --runtime "$4" --out "$out" --json
"""
_ILLEGAL, _KILLED = (132, -4), (137, -9)


def sample_there(connection: Connection, target: Target, python: str, runtime: Runtime, install: str) -> dict[str, Any]:
    """Draw pairs there and throw them away.

    Returns:
        What ``generate.py --json`` prints: ``seconds_per_pair``, ``peak_memory_mb`` ...

    Raises:
        StageError: it failed there.
        UbqError: the connection failed.
    """
    done = connection.run(_GENERATE, target.path, python, str(_PAIRS), runtime.name)
    try:
        sample = json.loads(done.stdout.strip().splitlines()[-1]) if done.code == 0 else None
    except (ValueError, IndexError):
        sample = None
    if isinstance(sample, Mapping):
        return dict(sample)
    if done.code in _ILLEGAL or "Illegal instruction" in done.stderr:
        raise StageError(
            _("{runtime} stops with an illegal instruction on {host}").format(runtime=runtime.title, host=target.host),
            install,
        )
    if done.code in _KILLED or "MemoryError" in done.stderr:
        raise StageError(
            _("the sample run was killed on {host}: too little memory").format(host=target.host),
            _("close other programs there, or export a smaller preset"),
        )
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    error = next((line for line in reversed(lines) if line.startswith("generate.py:")), lines[-1] if lines else "")
    raise StageError(
        _("the sample run failed on {host}: {error}").format(host=target.host, error=error or f"exit {done.code}"),
        _("see it there: ssh {host} 'cd {path} && {python} generate.py'").format(
            host=target.host, path=target.path, python=python
        ),
    )
