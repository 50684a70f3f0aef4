"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import Context, Regression, fit

from ubq.errors import StageError
from ubq.training.context import Stopped
from ubq.training.saving import on_host
from ubq.training.store import CheckpointStore


class Slow(Context):
    """Its first save ends only once training has gone three steps further; keeps what becomes durable when."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__(stop_at=stop_at)
        self.went_on = threading.Event()
        self.durable: list[int] = []
        self.said: list[tuple[int, int]] = []
        self.by: dict[int, str] = {}

    def save(self, step: int, payload: dict) -> None:
        if not self.durable:
            assert self.went_on.wait(60)
        super().save(step, payload)
        self.durable.append(step)
        self.by[step] = threading.current_thread().name

    def progress(self, step: int, steps: int, **figures: float | str) -> None:
        super().progress(step, steps, **figures)
        if step == 7:
            self.went_on.set()

    def checkpoint_saved(self, step: int) -> None:
        assert step in self.durable
        self.said.append((step, self.at))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_what_is_saved_is_the_step_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    fit(slow)
    assert [step for step, _at in slow.said] == [4, 8, 12, 16, 20]
    assert slow.said[0][1] >= 7, "training did not go on"
    assert slow.by[4] != threading.main_thread().name == slow.by[20]
    monkeypatch.setattr("ubq.training.saving.memory_available", lambda: 0)
    at_once = Context()
    fit(at_once)
    assert equal(slow.saved, at_once.saved)


def test_a_stop_waits_for_the_save_under_way_and_its_own() -> None:
    slow = Slow(stop_at=7)
    with pytest.raises(Stopped):
        fit(slow)
    assert slow.durable == [4, 7]


def test_without_memory_for_a_copy_training_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ubq.training.saving.memory_available", lambda: 1000)
    slow = Slow()
    slow.went_on.set()
    fit(slow)
    assert set(slow.by.values()) == {threading.main_thread().name}
    assert slow.said[0] == (4, 4)


class OnDisk(Context):
    """Its checkpoints are real ones."""

    def __init__(self, folder: Path, **arguments: Any) -> None:
        super().__init__()
        self.real = CheckpointStore(folder, **arguments)

    def save(self, step: int, payload: dict) -> None:
        self.real.save(step, payload)


def test_what_goes_wrong_in_a_save_ends_training_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = OnDisk(tmp_path)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(StageError, match="too little disk space for a checkpoint"):
        fit(context)
    assert 4 <= context.at <= 8, "it was found out only later"
    assert context.real.steps() == []


def test_no_checkpoint_becomes_valid_once_the_run_is_another_process_s(tmp_path: Path) -> None:
    class Lost(StageError):
        pass

    def lost() -> None:
        raise Lost("taken over")

    context = OnDisk(tmp_path, before_commit=lost)
    with pytest.raises(Lost):
        fit(context)
    assert context.real.steps() == []


def test_a_save_under_way_ends_where_training_fails() -> None:
    class Fails(Slow):
        def progress(self, step: int, steps: int, **figures: float | str) -> None:
            super().progress(step, steps, **figures)
            if step == 7:
                raise ValueError("at step 7")

    context = Fails()
    with pytest.raises(ValueError, match="at step 7"):
        fit(context)
    assert context.durable == [4]
    assert [step for step, _at in context.said] == [4]


def test_the_copy_makes_the_same_file(tmp_path: Path) -> None:
    """Also where tensors share their memory or lie in it otherwise."""
    weights = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    model = Regression().model.state_dict()
    payload: dict[str, object] = {"weights": weights, "view": weights[1:, :2], "model": model, "n": [1, (2.0, None)]}
    copied = on_host(payload)
    for name, held in (("a", payload), ("b", copied)):
        torch.save(held, open(tmp_path / name, "wb"))  # noqa: SIM115
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    weights.zero_()
    assert bool(copied["weights"].any())  # type: ignore[attr-defined]
    assert copied["weights"].stride() == weights.stride()  # type: ignore[attr-defined]
