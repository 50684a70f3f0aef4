"""A stage's final file takes the place of its checkpoints, so it is read back before it counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ubq.training.files import load_tensors, save_tensors


def test_what_the_disk_gives_back_otherwise_never_replaces_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "diffusion.pt"
    save_tensors(path, {"a": torch.ones(1000)})
    real = os.fsync

    def damaging(descriptor: int) -> None:
        real(descriptor)
        for file in tmp_path.glob(".*.tmp"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", damaging)
        with pytest.raises(OSError, match="reads back otherwise") as caught:
            save_tensors(path, {"a": torch.zeros(1000)})
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["diffusion.pt"]
    assert torch.equal(load_tensors(path)["a"], torch.ones(1000))


def test_a_full_disk_is_said_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save turns an error of the file it writes to into a RuntimeError of its own."""

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ubq.durable.HashingFile.flush", full)
    with pytest.raises(OSError, match="No space"):
        save_tensors(tmp_path / "a.pt", {"a": torch.ones(10)})
    assert list(tmp_path.iterdir()) == []
