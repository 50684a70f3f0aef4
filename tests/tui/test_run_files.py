"""Reading what a job writes, as it writes it; curves; costs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ubq.config import presets
from ubq.tui import cost
from ubq.tui.fields import complete_path
from ubq.tui.plot import curves
from ubq.tui.runfiles import MAX_POINTS, GrowingFile, Log, Metrics


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def test_only_whole_new_lines_are_read() -> None:
    path = Path("log")
    growing = GrowingFile(path)
    assert growing.lines() == []
    append(path, "one\ntw")
    assert growing.lines() == ["one"]
    append(path, "o\n")
    assert growing.lines() == ["two"]
    assert growing.lines() == []


def test_a_file_written_anew_is_read_from_its_start() -> None:
    path = Path("log")
    growing = GrowingFile(path)
    append(path, "one\ntwo\nthree\n")
    growing.lines()
    path.write_text("one\n")  # shorter
    assert growing.lines() == ["one"]
    assert growing.restarted
    append(Path("other"), "x\ny\n")
    os.replace("other", path)  # another file
    assert growing.lines() == ["x", "y"]
    assert growing.restarted
    assert growing.lines() == []
    assert not growing.restarted


def test_a_long_log_is_read_from_near_its_end() -> None:
    path = Path("run.log")
    path.write_text("".join(f"line {i}\n" for i in range(60_000)))
    log = Log(path)
    lines = log.read()
    assert lines[-1] == "line 59999"
    assert len(lines) < 60_000
    assert lines[0].startswith("line ")


def test_metrics_survive_damage_and_lost_steps() -> None:
    path = Path("metrics.jsonl")
    metrics = Metrics(path)
    rows = [{"stage": "a", "step": i, "loss": 1 / i} for i in range(1, 5)]
    path.write_text(
        "".join(json.dumps(r) + "\n" for r in rows)
        + '{"stage": "a"}\nnot json\n[1]\n{"stage": "a", "step": 9, "loss": null}\n'
        + '{"stage": "a", "step": 4, "val_loss": 0.5}\n{"stage": "a", "st'
    )
    assert metrics.read()
    assert metrics.train["a"].points == [(i, 1 / i) for i in range(1, 5)]
    assert metrics.validation["a"].points == [(4, 0.5)]
    path.write_text(json.dumps(rows[0]) + "\n")
    metrics.read()
    assert metrics.train["a"].points == [(1, 1.0)]
    assert metrics.validation == {}


def test_of_a_long_run_few_points_are_kept_and_only_what_is_new_is_read() -> None:
    path = Path("metrics.jsonl")
    metrics = Metrics(path)
    row = '{{"stage": "train-diffusion", "step": {}, "loss": 0.5, "lr": 0.001, "grad_norm": 1.0, "phase": "train"}}\n'
    append(path, "".join(row.format(i) for i in range(180_000)))  # fifty rows a second for an hour
    metrics.read()
    points = metrics.train["train-diffusion"].points
    assert len(points) <= MAX_POINTS + 1
    assert points[-1][0] > 170_000
    # What has been read may become anything: it is not looked at again, however long the file.
    before = list(points)
    with path.open("r+b") as file:
        file.write(row.format(7).replace("diffusion", "nonsense!").encode() * 1000)
    append(path, "".join(row.format(i) for i in range(180_000, 181_000)))
    metrics.read()
    assert set(metrics.train) == {"train-diffusion"}
    assert metrics.train["train-diffusion"].points[: len(before)] == before
    assert metrics.train["train-diffusion"].points[-1][0] > 180_900


losses = st.lists(st.tuples(st.integers(0, 10**6).map(float), st.floats(width=32) | st.just(0.5)), max_size=40)


@given(losses, losses, st.integers(0, 130), st.integers(0, 40))
def test_curves_fit_their_place_whatever_the_losses(
    train: list[tuple[float, float]], validation: list[tuple[float, float]], width: int, height: int
) -> None:
    lines = curves(sorted(train), sorted(validation), width, height)
    assert lines == [] or len(lines) == height
    assert all(len(line) <= width for line in lines)


def test_a_falling_loss_falls() -> None:
    lines = curves([(0.0, 1.0), (10.0, 0.0)], [(10.0, 1.0)], 30, 9)
    first = next(i for i, c in enumerate(lines[0][11:]) if c not in " ○")
    last = next(i for i, c in enumerate(lines[7][11:]) if c not in " ○")
    assert first < last
    assert lines[0].endswith("○")
    assert lines[0].split()[0] == "1"
    assert lines[-1].split() == ["└0", "10"]


def test_paths_are_completed() -> None:
    Path("maps/inner").mkdir(parents=True)
    Path("maps/model1.npy").touch()
    Path("maps/.hidden").touch()
    assert complete_path("ma") == "maps/"
    assert complete_path("maps/") == "maps/inner/"
    assert complete_path("maps/m") == "maps/model1.npy"
    assert complete_path("maps/model1.npy") is None
    assert complete_path("maps/.h") == "maps/.hidden"
    assert complete_path("nowhere/x") is None
    assert complete_path("") is None
    assert complete_path("\0") is None


def test_every_preset_has_its_figures() -> None:
    facts = cost.preset_facts()
    assert set(facts) == set(presets.names())
    assert facts["demo"]["file_bytes"] < facts["curvefault-a"]["file_bytes"] < 2e9
    assert "cores" in cost.time_text(facts["smoke"], 2)
    assert "GPU" in cost.time_text(facts["curvefault-a"], 2)
