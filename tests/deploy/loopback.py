"""A real sshd on the loopback interface, with keys and a configuration of its own, for as long as a test wants it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

SHELL_PATH = "/usr/local/bin:/usr/bin:/bin"


def find_sshd() -> str | None:
    """sshd, which lies outside of most users' PATH; it insists on being called by its whole path."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


class Sshd:
    """Logs in the user that runs the tests, with one key. ``shims`` come first in the PATH of its sessions.

    Args:
        folder: for keys, configuration and log.
    """

    host = "pi"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shims = folder / "shims"
        self.shims.mkdir()
        for name in ("host_key", "user_key", "other_key"):
            self._key(name)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host_key\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f"SetEnv PATH={self.shims}:{SHELL_PATH}\n"
        )
        self.trust((folder / "host_key.pub").read_text())
        self._process: subprocess.Popen[bytes] | None = None

    def _key(self, name: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)], check=True
        )

    def trust(self, public_key: str) -> None:
        """Make this the host key that the client knows; an empty text makes it know none."""
        line = f"[127.0.0.1]:{self.port} {public_key}" if public_key else ""
        (self.folder / "known_hosts").write_text(line)

    def ssh(self, key: str = "user_key") -> str:
        """The ssh command, as ``UBQ_SSH`` takes it, with nothing of the user's own configuration."""
        config = self.folder / f"ssh_config_{key}"
        config.write_text(
            f"Host {self.host} nobody@{self.host}\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  User {getpass.getuser()}\n  IdentityFile {self.folder}/{key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known_hosts\n  GlobalKnownHostsFile none\n  IdentityAgent none\n"
        )
        return f"ssh -F {config}"

    def shim(self, name: str, script: str) -> None:
        """Put a program in the way of the one of the same name on the other side."""
        path = self.shims / name
        path.write_text(f"#!/bin/sh\nPATH={SHELL_PATH}\n{script}\n")
        path.chmod(0o755)

    def no_shims(self) -> None:
        for path in self.shims.iterdir():
            path.unlink()

    def start(self) -> None:
        """Raises a RuntimeError where it does not come up."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd wants it when it is root
        sshd = find_sshd()
        assert sshd
        with (self.folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log, stdin=subprocess.DEVNULL
            )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)
