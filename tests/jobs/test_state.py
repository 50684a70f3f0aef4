"""state.json and the line files: schema, migration, garbage, and reading while they are written."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ubq.cli.describe import describe
from ubq.durable import LineFile, plain, read_rows, write_atomic
from ubq.errors import EXIT_USAGE, UsageError
from ubq.jobs.state import (
    SCHEMA_VERSION,
    NewerSchemaError,
    RunState,
    StageState,
    StateFile,
    parse_state,
    read_state,
    write_state,
)
from ubq.jobs.status import snapshot

VERSION_1 = {
    "schema_version": 1,
    "run": "demo",
    "preset": "demo",
    "state": "running",
    "created": 1700000000.0,
    "updated": 1700003600.0,
    "stages": {
        "autoencoder": {
            "state": "done",
            "step": 400,
            "steps": 400,
            "loss": 0.25,
            "started": 1700000000.0,
            "ended": 1700000100.0,
            "fingerprint": {"version": 1, "seed": 0},
        },
        "diffusion": {"state": "running", "step": 10, "steps": 100, "loss": 0.5, "started": 1700000101.0},
    },
    "next_command": "ubq resume demo",
}


def test_round_trip(tmp_path: Path) -> None:
    state = RunState(run="demo", stages=[StageState("a", step=3, steps=9, fingerprint={"seed": 0})])
    write_state(tmp_path / "state.json", state)
    assert read_state(tmp_path / "state.json") == state
    assert json.loads((tmp_path / "state.json").read_text())["schema_version"] == SCHEMA_VERSION


def test_what_schema_2_called_mend_is_called_fix(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    error = {"message": "out of memory", "mend": "ubq resume demo"}
    old = {
        "schema_version": 2,
        "run": "demo",
        "state": "failed",
        "error": {"stage": "qat-decoders", **error},
        "preflight": [{"id": "disk", "status": "ok", "mend": ""}],
        "stages": [{"name": "prepare", "state": "completed", "error": None}, {"name": "qat-decoders", "error": error}],
    }
    path.write_text(json.dumps(old))
    state = read_state(path)
    assert state is not None
    assert state.error == {"stage": "qat-decoders", "message": "out of memory", "fix": "ubq resume demo"}
    assert state.preflight == [{"id": "disk", "status": "ok", "fix": ""}]
    assert [s.error for s in state.stages] == [None, {"message": "out of memory", "fix": "ubq resume demo"}]


def test_schema_1_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(VERSION_1))
    state = read_state(path)
    assert state is not None
    assert (state.state, state.created) == ("running", "2023-11-14T22:13:20Z")
    assert [(s.name, s.state, s.step) for s in state.stages] == [
        ("autoencoder", "completed", 400),
        ("diffusion", "running", 10),
    ]
    assert state.stages[0].ended == "2023-11-14T22:15:00Z"
    assert state.stages[0].fingerprint == {"version": 1, "seed": 0}
    assert state.stages[1].ended is None
    write_state(path, state)
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    assert read_state(path) == state


def test_a_run_that_is_only_configured_is_pending(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    shot = snapshot(tmp_path)
    assert (shot.shown, shot.running) == ("pending", False)
    assert shot.state.next_command.startswith("ubq resume")


def test_a_newer_schema_is_refused_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    newer = {
        "schema_version": SCHEMA_VERSION + 1,
        "run": "demo",
        "state": "running",
        "stages": [{"name": "a", "state": "running", "step": 5, "steps": 10, "sparkle": [1]}],
    }
    path.write_text(json.dumps(newer))
    with pytest.raises(NewerSchemaError) as caught:
        read_state(path)
    assert caught.value.exit_code == EXIT_USAGE
    assert f"schema {SCHEMA_VERSION + 1}" in caught.value.message
    shot = snapshot(tmp_path)
    assert shot.schema_version == SCHEMA_VERSION + 1
    assert "newer" in shot.problem
    assert shot.as_dict()["stages"][0]["percent"] == 50.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
state_like = st.fixed_dictionaries(
    {"schema_version": st.sampled_from([0, 1, 2, 3, 99, True, None, "2"])},
    optional={
        "run": st.text(max_size=5) | json_values,
        "state": st.text(max_size=5) | json_values,
        "stages": st.lists(
            st.fixed_dictionaries(
                {"name": st.text(max_size=3)},
                optional=dict.fromkeys(
                    ("step", "steps", "state", "loss", "error", "artifacts", "seconds"), json_values
                ),
            ),
            max_size=2,
        )
        | json_values,
        **dict.fromkeys(("preset", "error", "next_command", "created", "preflight", "exit_code"), json_values),
    },
)


@given(st.binary(max_size=200) | state_like.map(lambda v: json.dumps(v).encode()))
def test_garbage_is_one_clear_error_and_status_shows_it(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / "state.json").write_bytes(data)
    try:
        parse_state(data, folder / "state.json")
        message = ""
    except UsageError as error:
        message = error.message
    assert "\n" not in message
    shot = snapshot(folder)
    assert bool(shot.problem) == bool(message)
    json.dumps(shot.as_dict(), allow_nan=False)
    assert describe(shot)


@given(st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), max_size=5), st.binary(max_size=40))
def test_torn_lines_are_left_out_and_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("lines") / "events.jsonl"
    whole = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    torn = tail.replace(b"\n", b"")
    path.write_bytes(whole + torn)
    read = list(read_rows(path))
    assert read[: len(rows)] == rows
    lines = LineFile(path)
    lines.append({"after": 1})
    lines.close()
    assert path.read_bytes() == whole + b'{"after": 1}\n'


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 200_000)
    LineFile(path).close()
    assert path.read_bytes() == b'{"a": 1}\n'


def test_rows_are_kept_by_condition(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "metrics.jsonl")
    for step in range(5):
        lines.append({"step": step})
    lines.keep(lambda row: row["step"] != 3)
    lines.append({"step": 9})
    lines.close()
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 2, 4, 9]


def test_json_holds_no_nan() -> None:
    assert plain({"loss": float("nan"), "best": [float("inf"), 1.5], "path": Path("a")}) == {
        "loss": None,
        "best": [None, 1.5],
        "path": "a",
    }


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, b"old")

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def _write_until(path: Path, enough: Event) -> None:
    state = RunState(run="demo", stages=[StageState("a", steps=10**6, figures={"padding": "x" * 20_000})])
    while not enough.is_set():
        state.stages[0].step += 1
        write_state(path, state)


def test_readable_at_all_times_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(path, RunState(run="demo"))
    fork = multiprocessing.get_context("fork")
    enough = fork.Event()
    writer = fork.Process(target=_write_until, args=(path, enough))
    writer.start()
    steps: list[int] = []
    while writer.is_alive() and len(set(steps)) <= 100:
        state = read_state(path)
        assert state is not None
        steps += [s.step for s in state.stages]
        time.sleep(0.0005)
    enough.set()
    writer.join()
    assert writer.exitcode == 0
    assert steps == sorted(steps)


def test_progress_is_written_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(tmp_path / "state.json", RunState(run="demo"))
    moment = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: moment[0])
    written = []
    monkeypatch.setattr("ubq.jobs.state.write_state", lambda path, state: written.append(moment[0]))
    for _step in range(1000):  # 10 s of steps of 10 ms
        file.save_progress()
        moment[0] += 0.01
    assert 18 <= len(written) <= 21
