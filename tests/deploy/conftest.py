"""A running sshd, and a bundle to deploy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Sshd, find_sshd
from toy_bundle import exported_folder

from ubq.export.bundle.folder import Bundle, make_bundle


@pytest.fixture(scope="session")
def running_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if find_sshd() is None:
        pytest.skip("there is no sshd (apt install openssh-server)")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sshd(running_sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """The server as it is at first: it is trusted, the key is right, nothing is in the way."""
    monkeypatch.setenv("UBQ_SSH", running_sshd.ssh())
    yield running_sshd
    running_sshd.no_shims()
    running_sshd.trust((running_sshd.folder / "host_key.pub").read_text())


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(exported_folder(tmp_path / "exported_models"))
