"""Copying files so that an interrupted copy goes on, and no half-copied one ever bears its final name.

A file grows as ``NAME.part`` by appending over ssh. When all are there, their SHA-256 is compared on
the other side, and only then they get their names, the manifest last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ubq.deploy.ssh import Connection, Finished
from ubq.deploy.target import Target
from ubq.errors import PreflightError, StageError
from ubq.i18n import gettext as _

_SPARE_BYTES = 1 << 20

_STATE = """
cd -- "$1" 2>/dev/null || exit 0
shift; i=0
for name; do
  [ -f "$name" ] && echo "$i final $(wc -c <"$name") $(sha256sum <"$name")"
  [ -f "$name.part" ] && echo "$i part $(wc -c <"$name.part") $(sha256sum <"$name.part")"
  i=$((i + 1))
done
exit 0
"""
_FRESH = 'mkdir -p -- "$1" && cd -- "$1" && exec cat >"$2.part"'
_APPEND = 'cd -- "$1" && exec cat >>"$2.part"'
_FORGET = 'cd -- "$1" && rm -f -- "$2.part"'
_RENAME = """
cd -- "$1" || exit; shift
for name; do mv -f -- "$name.part" "$name" || exit; done
sync
"""


@dataclass(frozen=True)
class BundleFile:
    """A file to copy."""

    path: Path
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Copied:
    """What became of a file.

    Attributes:
        name: of the file.
        bytes: its size.
        sha256: compared on the other side.
        sent: bytes sent this time: 0 when it was there, fewer than its size when a copy went on.
    """

    name: str
    bytes: int
    sha256: str
    sent: int


@dataclass(frozen=True)
class _FileThere:
    size: int
    sha256: str


def copy_files(
    connection: Connection,
    target: Target,
    files: Sequence[BundleFile],
    free_bytes: int,
    progress: Callable[[int, int], None],
) -> list[Copied]:
    """Copy files into one folder.

    Args:
        connection: to the machine.
        target: folder there, made when missing.
        files: the one to be named last, last.
        free_bytes: room there.
        progress: called with (done, all) bytes.

    Raises:
        PreflightError: no room there.
        StageError: a copy broke, or a file came out different.
    """
    final, part = _state(connection, target, files)
    open_files = [f for f in files if final.get(f.name) != _FileThere(f.bytes, f.sha256)]
    start = {f.name: _resume_at(f, part.get(f.name)) for f in open_files}
    need = sum(f.bytes - start[f.name] for f in open_files) + _SPARE_BYTES
    if need > free_bytes:
        raise _no_space(target, need, free_bytes)
    total = sum(f.bytes for f in files)
    done = total - sum(f.bytes - start[f.name] for f in open_files)
    progress(done, total)
    for file in open_files:

        def show(sent: int, before: int = done) -> None:
            progress(before + sent, total)

        _send(connection, target, file, start[file.name], show)
        done += file.bytes - start[file.name]
    _final, part = _state(connection, target, open_files)
    for file in open_files:
        if part.get(file.name) != _FileThere(file.bytes, file.sha256):
            connection.run(_FORGET, target.path, file.name)
            raise StageError(
                _("{name} came out different on {host}: its SHA-256 is not the manifest's").format(
                    name=file.name, host=target.host
                ),
                _("the same command again copies it anew; if this repeats, the card or the disk there is failing"),
            )
    renamed = connection.run(_RENAME, target.path, *(f.name for f in open_files))
    if renamed.code:
        raise _failed(target, renamed)
    left = {f.name: f.bytes - start[f.name] for f in open_files}
    return [Copied(f.name, f.bytes, f.sha256, left.get(f.name, 0)) for f in files]


def outdated(connection: Connection, target: Target, files: Sequence[BundleFile]) -> list[BundleFile]:
    """Those of some files that lie there with another content.

    Raises:
        StageError: the machine cannot tell.
    """
    final, _part = _state(connection, target, files)
    return [f for f in files if f.name in final and final[f.name] != _FileThere(f.bytes, f.sha256)]


def _state(
    connection: Connection, target: Target, files: Sequence[BundleFile]
) -> tuple[dict[str, _FileThere], dict[str, _FileThere]]:
    """What is there under the final names, and as ``.part``."""
    done = connection.run(_STATE, target.path, *(f.name for f in files))
    if done.code:
        raise _failed(target, done)
    files_there: dict[str, dict[str, _FileThere]] = {"final": {}, "part": {}}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) < 4:
            raise StageError(_("{host} has no sha256sum").format(host=target.host), _("install coreutils there"))
        files_there[words[1]][files[int(words[0])].name] = _FileThere(int(words[2]), words[3])
    return files_there["final"], files_there["part"]


def _resume_at(file: BundleFile, part: _FileThere | None) -> int:
    """Bytes of a file that lie there and are right."""
    if part is None or part.size > file.bytes:
        return 0
    with file.path.open("rb") as source:
        digest = hashlib.sha256()
        left = part.size
        while left and (block := source.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return part.size if digest.hexdigest() == part.sha256 else 0


def _send(
    connection: Connection, target: Target, file: BundleFile, start: int, progress: Callable[[int], None]
) -> None:
    with file.path.open("rb") as source:
        source.seek(start)
        script = _APPEND if start else _FRESH
        done = connection.send(script, target.path, file.name, source=source, progress=progress)
    if done.code:
        if _is_full(done.stderr):  # what fills the disk there helps nobody
            connection.run(_FORGET, target.path, file.name)
        raise _failed(target, done)


def _failed(target: Target, done: Finished) -> PreflightError | StageError:
    """The error that a command's own words there mean."""
    if _is_full(done.stderr):
        return PreflightError(
            _("no space is left on {host}").format(host=target.host),
            _("make room there, or give another folder; what is there: ssh {host} df -h").format(host=target.host),
        )
    lines = done.stderr.strip().splitlines()
    return StageError(
        _("copying to {target} failed: {error}").format(
            target=target, error=lines[-1] if lines else f"exit {done.code}"
        ),
        _("the same command again goes on where it stopped"),
    )


def _is_full(stderr: str) -> bool:
    return bool(re.search(r"No space left on device|Disk quota exceeded|File too large", stderr))


def _no_space(target: Target, need: int, free: int) -> PreflightError:
    return PreflightError(
        _("{target} needs {need:.0f} MB and has {free:.0f} MB").format(target=target, need=need / 1e6, free=free / 1e6),
        _("make room there, or give another folder; what is there: ssh {host} df -h").format(host=target.host),
    )
