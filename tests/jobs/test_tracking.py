"""Trackers: what they hold after interruptions, and that none of them can hurt a run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import toy

from ubq.config.schema import Config
from ubq.durable import read_rows
from ubq.errors import StageError
from ubq.jobs import tracking
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import start_run
from ubq.stages.base import Stopped
from ubq.stages.paths import RunPaths

Row = tuple[str, int, float]


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def start(paths: RunPaths, tracker: str, stages: list[Any] | None = None, **values: Any) -> int:
    if tracker == "tensorboard" and paths.root.exists():
        time.sleep(1.0)  # event files are named, and read, by the second they were begun in
    config = toy.toy_config(epochs=20, **values).model_copy(update={"tracking": tracker})
    return start_run(config, paths, stages=stages or toy.stages(), preflight=False, console=QuietConsole())


def losses(paths: RunPaths) -> list[Row]:
    """Stage, step and loss of every row of ``metrics.jsonl``."""
    rows: list[Any] = list(read_rows(paths.metrics))
    return [(r["stage"], r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in rows]


def board(paths: RunPaths) -> list[Row]:
    """The same as TensorBoard reads it: what a restart purged is gone."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = []
    for stage in ("autoencoder", "diffusion", "qat"):
        folder = paths.root / "tracking" / "tensorboard" / stage
        if folder.is_dir():
            events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
            found += [(stage, e.step, e.value) for e in events.Scalars("loss")]
    return found


def test_tensorboard_holds_the_rows_and_the_configuration(paths: RunPaths) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert start(paths, "tensorboard") == 0
    assert board(paths) == losses(paths)
    assert len(losses(paths)) == 60
    events = event_accumulator.EventAccumulator(str(paths.root / "tracking" / "tensorboard")).Reload()
    text = events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert paths.config.read_text() in text
    assert "warning" not in paths.log.read_text()


def test_tensorboard_after_a_crash_an_interruption_and_a_change_holds_each_step_once(paths: RunPaths) -> None:
    pytest.importorskip("tensorboard")
    assert start(paths, "tensorboard", toy.failing(StageError("stop"), after_step=17)) == 1
    assert len(board(paths)) == 20 + 17
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ubq.jobs.signals.StopSignals.exit_code", 130)
        assert start(paths, "tensorboard", toy.failing(Stopped(), after_step=19)) == 130
    assert start(paths, "tensorboard") == 0
    assert board(paths) == losses(paths)
    assert start(paths, "tensorboard", seed=1) == 0
    assert board(paths) == losses(paths)
    assert len(losses(paths)) == 60


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: 7 bytes, then LevelDB's log format in blocks of 32 KiB that count from the first."""
    block, at, record = 32768, 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # no header fits: padding
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield record
            record = b""


class WandbFiles:
    """What wandb wrote to disk, in order."""

    def __init__(self, paths: RunPaths) -> None:
        from wandb.proto import wandb_internal_pb2

        self.rows: list[dict[str, Any]] = []
        self.ids: set[str] = set()
        self.config: dict[str, Any] = {}
        self.starts = sorted((paths.root / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
        for file in self.starts:
            for data in leveldb_log(file.read_bytes()):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                if record.HasField("run"):
                    self.ids.add(record.run.run_id)
                if record.HasField("config"):
                    self.config |= {u.key: json.loads(u.value_json) for u in record.config.update if u.key}
                if record.HasField("history"):
                    items = record.history.item
                    self.rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})

    def losses(self) -> list[Row]:
        found = []
        for row in self.rows:
            (stage,) = (k.removesuffix("/step") for k in row if k.endswith("/step"))
            found.append((stage, row[f"{stage}/step"], row[f"{stage}/loss"]))
        return found


def test_wandb_offline_goes_on_with_the_same_run(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):  # no account, nothing left behind
        monkeypatch.setenv(name, str(paths.root.parent / "home"))
    assert start(paths, "wandb", toy.failing(StageError("stop"), after_step=17)) == 1
    first = WandbFiles(paths)
    assert first.losses()[:20] == losses(paths)[:20]
    assert first.config["model"]["variant"] == "paper"
    assert start(paths, "wandb") == 0
    assert start(paths, "wandb", seed=1) == 0
    seen = WandbFiles(paths)
    assert len(seen.starts) == 3
    assert seen.ids == {json.loads((paths.root / "tracking" / "wandb.json").read_text())["id"]}
    assert "warning" not in paths.log.read_text()
    both = seen.losses()
    repeated = [row for row in both if row[:2] in {("diffusion", step) for step in range(11, 18)}]
    assert len(repeated) == 14
    assert repeated[:7] == repeated[7:]
    # The other seed has names of its own, and its rows are the last ones.
    assert [(f"{stage}#2", *rest) for stage, *rest in losses(paths)] == both[-60:]
    assert {stage for stage, *_ in both[:-60]} == {"autoencoder", "diffusion", "qat"}


class Recorder:
    """A tracker that raises at one of its calls."""

    def __init__(self, fails: str, error: BaseException) -> None:
        self.fails, self.error = fails, error
        self.calls: list[str] = []

    def made(self, config: Config, paths: RunPaths) -> Recorder:
        self.call("import")
        return self

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise self.error

    def begin(self, stage: str, generation: int, step: int) -> None:
        self.call("begin")

    def row(self, stage: str, step: int, figures: Mapping[str, object]) -> None:
        self.call("row")

    def close(self, exit_code: int) -> None:
        self.call("close")


@pytest.mark.parametrize("call", ["import", "begin", "row", "close"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ConnectionError("no\nroute"), SystemExit(1)])
def test_a_tracker_that_raises_costs_one_warning(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    recorder = Recorder(call, error)
    monkeypatch.setitem(tracking.TRACKERS, "wandb", recorder.made)  # type: ignore[arg-type]
    assert start(paths, "wandb") == 0
    assert recorder.calls.count(call) == 1
    warnings = [line for line in paths.log.read_text().splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "wandb gets no more rows" in warnings[0]
    assert type(error).__name__ in warnings[0]
    assert "Traceback" not in paths.log.read_text()
    assert len(losses(paths)) == 60


@pytest.mark.parametrize("call", ["import", "row", "close"])
def test_a_tracker_that_never_returns_does_not_hold_the_run(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    over = threading.Event()

    class Hangs(Recorder):
        def call(self, name: str) -> None:
            if name == self.fails:
                over.wait()

    monkeypatch.setitem(tracking.TRACKERS, "wandb", Hangs(call, Exception()).made)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    assert start(paths, "wandb") == 0
    over.set()
    assert paths.log.read_text().count("wandb gets no more rows") == 1
    assert "it does not end" in paths.log.read_text()


def test_a_tracker_that_cannot_follow_is_given_up(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    class Slow(Recorder):
        def call(self, name: str) -> None:
            over.wait()

    monkeypatch.setitem(tracking.TRACKERS, "wandb", Slow("", Exception()).made)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking, "WAITING_ROWS", 10)
    assert start(paths, "wandb") == 0
    over.set()
    assert paths.log.read_text().count("it does not keep up") == 1


def test_a_missing_package_costs_one_warning(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert start(paths, "wandb") == 0
    assert paths.log.read_text().count("warning: wandb gets no more rows") == 1
    assert "ModuleNotFoundError" in paths.log.read_text()


def test_without_a_tracker_nothing_is_started(paths: RunPaths) -> None:
    before = threading.active_count()
    seen = []

    class Looks(toy.Export):
        def run(self, context: Any) -> None:
            seen.append(threading.active_count())
            super().run(context)

    assert start(paths, "none", [*toy.stages()[:3], Looks()]) == 0
    assert not (paths.root / "tracking").exists()
    assert seen[0] <= before + 1  # the heartbeat of owner.json
