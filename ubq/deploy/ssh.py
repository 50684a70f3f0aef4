"""Commands on another machine through the user's own ssh: their configuration, keys, agent and jump hosts.

ubq passes no option that touches keys or host keys. Without a terminal ssh may not ask (``BatchMode``).
All commands share one connection, so that a password is asked for once.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

from ubq.errors import PreflightError, StageError, UbqError
from ubq.i18n import gettext as _

SSH_VARIABLE = "UBQ_SSH"
"""Environment variable with the ssh command to use, such as ``ssh -p 2222 -F other_config``."""
_SSH_FAILED = 255
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Finished:
    """A command that ended there."""

    code: int
    stdout: str
    stderr: str


class Connection:
    """One connection, opened by the first command; a context manager.

    Args:
        host: for ssh.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._ssh = shlex.split(os.environ.get(SSH_VARIABLE, "ssh"))
        if not self._ssh or shutil.which(self._ssh[0]) is None:
            raise PreflightError(
                _("there is no {program}").format(program=self._ssh[0] if self._ssh else "ssh"),
                _("install it: apt install openssh-client"),
            )
        self._folder = Path(tempfile.mkdtemp(prefix="ubq-ssh-"))

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [*self._ssh, *self._options(), "-O", "exit", self.host],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=10,
            )  # fmt: skip
        shutil.rmtree(self._folder, ignore_errors=True)

    def _options(self) -> list[str]:
        options = ["ControlMaster=auto", f"ControlPath={self._folder}/%C", "ControlPersist=60"]
        # a connection that died is noticed, instead of waiting for ever
        options += ["ServerAliveInterval=15", "ServerAliveCountMax=4", "ConnectTimeout=20"]
        if not sys.stdin.isatty():
            options.append("BatchMode=yes")
        return [word for option in options for word in ("-o", option)]

    def _start(self, script: str, arguments: tuple[str, ...], errors: BinaryIO) -> subprocess.Popen[bytes]:
        # sh whatever the login shell is
        command = shlex.join(["sh", "-c", script, "ubq", *arguments])
        return subprocess.Popen(
            [*self._ssh, *self._options(), "-T", self.host, command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip

    def run(self, script: str, *arguments: str, stdin: bytes = b"") -> Finished:
        """Run a shell script there.

        Args:
            script: for ``sh``.
            arguments: its ``$1``, ``$2`` ...
            stdin: for its standard input.

        Raises:
            UbqError: the connection failed or broke; what the command itself says is left to the caller.
        """
        return self._finish(script, arguments, lambda stream: _write(stream, stdin))

    def send(self, script: str, *arguments: str, source: BinaryIO, progress: Callable[[int], None]) -> Finished:
        """Run a shell script there with the rest of an open file as its standard input.

        Args:
            script: for ``sh``; it must print next to nothing.
            arguments: its ``$1``, ``$2`` ...
            source: read from where it stands to its end.
            progress: called with the bytes given to ssh so far.

        Raises:
            UbqError: as ``run``.
        """

        def feed(stream: IO[bytes]) -> None:
            sent = 0
            while block := source.read(_BLOCK):
                _write(stream, block)
                sent += len(block)
                progress(sent)

        return self._finish(script, arguments, feed)

    def _finish(self, script: str, arguments: tuple[str, ...], feed: Callable[[IO[bytes]], None]) -> Finished:
        # a file, not a pipe: the shared connection stays in the background and may keep stderr open
        with tempfile.TemporaryFile(dir=self._folder) as errors:
            process = self._start(script, arguments, errors)
            assert process.stdin is not None
            try:
                with suppress(BrokenPipeError):  # it ended early, and says why
                    feed(process.stdin)
                with suppress(BrokenPipeError):
                    process.stdin.close()
                process.stdin = None
                out, _none = process.communicate()
            except BaseException:
                process.kill()
                process.wait()
                raise
            errors.seek(0)
            stderr = errors.read().decode(errors="replace")
        if process.returncode == _SSH_FAILED:
            raise connection_error(stderr, self.host)
        return Finished(process.returncode, out.decode(errors="replace"), stderr)


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)
    stream.flush()


def connection_error(stderr: str, host: str) -> UbqError:
    """What ssh's own words mean, and what fixes it."""
    bare = host.rpartition("@")[2]
    changed, unknown = "REMOTE HOST IDENTIFICATION HAS CHANGED", r"Host key verification failed|host key is known for"
    if changed in stderr:
        return PreflightError(
            _("{host} shows another host key than before: it was set up anew, or it is another machine").format(
                host=bare
            ),
            _("if you know why: ssh-keygen -R {host}, then log in once with: ssh {login}").format(
                host=bare, login=host
            ),
        )
    if re.search(unknown, stderr):
        return PreflightError(
            _("the host key of {host} is not known here").format(host=bare),
            _("log in once and compare the fingerprint: ssh {login}").format(login=host),
        )
    if re.search(r"Permission denied|Too many authentication failures|No supported authentication", stderr):
        return PreflightError(
            _("{host} does not let {login} in").format(host=bare, login=host),
            _("install your key: ssh-copy-id {login}, or name another in ~/.ssh/config").format(login=host),
        )
    if "Could not resolve hostname" in stderr:
        return PreflightError(
            _("no machine of the name {host} is known").format(host=bare),
            _("give its address, or an alias of ~/.ssh/config; does it answer: ping {host}").format(host=bare),
        )
    reason = re.search(
        r"Connection refused|timed out|No route to host|Network is unreachable|Host is down", stderr, re.IGNORECASE
    )
    if reason and "Timeout, server" not in stderr:
        return PreflightError(
            _("no way to {host}: {reason}").format(host=bare, reason=reason[0].lower()),
            _("is it on and in this network, with SSH switched on (raspi-config)? does it answer: ssh {login}").format(
                login=host
            ),
        )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return StageError(
        _("the connection to {host} broke: {reason}").format(host=bare, reason=lines[-1] if lines else "ssh 255"),
        _("the same command again goes on where it stopped"),
    )
