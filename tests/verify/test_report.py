"""Marks from evidence, and the report as JSON and as a checklist."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ubq.errors import UsageError
from ubq.verify import marks
from ubq.verify.report import MARK_IDS, Mark, Report, print_checklist, threshold_text, value_text


def curve(stage: str, losses, vals, phase: str = "train") -> list[dict]:
    """Rows as the training loop writes them; validation rows spread over the steps."""
    rows = [{"stage": stage, "step": i, "loss": float(x), "phase": phase} for i, x in enumerate(losses)]
    for i, value in enumerate(vals):
        rows.insert((i + 1) * len(rows) // len(vals), {"stage": stage, "step": i, "val_loss": value, "phase": phase})
    return rows


NOISE = np.random.default_rng(0).normal(0, 0.05, 400)
FALLING = np.exp(-np.arange(400) / 100) + NOISE


def verdict(rows: list[dict], *stages: str) -> bool:
    return marks.loss_falling(rows, stages)[0].passed


def test_a_falling_loss_passes_and_a_flat_or_rising_one_fails() -> None:
    assert verdict(curve("train-seismic", FALLING, [1.0, 0.3]), "train-seismic")
    assert not verdict(curve("train-seismic", NOISE, [1.0, 0.3]), "train-seismic")
    assert not verdict(curve("train-seismic", FALLING[::-1], [1.0, 0.3]), "train-seismic")


def test_a_falling_loss_that_validates_worse_fails() -> None:
    assert not verdict(curve("train-seismic", FALLING, [0.3, 0.2, 0.31]), "train-seismic")
    assert not verdict(curve("train-seismic", FALLING, [0.3]), "train-seismic")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "nan"])
def test_a_run_that_diverges_fails_and_says_so(bad: object) -> None:
    rows = curve("train-seismic", FALLING, [1.0, 0.3])
    rows[300]["loss"] = bad
    mark, trends = marks.loss_falling(rows, ["train-seismic"])
    assert not mark.passed
    assert "diverged" in mark.how
    assert not trends[0].passed
    rows = curve("qat-diffusion", NOISE, [1.0, 0.3], "frozen")
    rows[-1]["val_loss"] = bad
    assert not verdict(rows, "qat-diffusion")


def test_qat_is_judged_from_where_everything_is_fake_quantised() -> None:
    """The loss jumps up when activations are quantised; that is no failure."""
    before = curve("qat-decoders", [0.1] * 50, [0.1, 0.1], "observe") + curve(
        "qat-decoders", [0.1] * 9, [0.1], "weights"
    )
    after = curve("qat-decoders", 0.3 + NOISE[:100], [0.3, 0.3], "activations")
    assert verdict(before + after, "qat-decoders")
    assert verdict(before + curve("qat-decoders", 0.3 + NOISE[:100], [0.3, 0.3], "frozen"), "qat-decoders")
    worse = curve("qat-decoders", 0.3 + NOISE[:100], [0.3, 0.3001], "frozen")
    assert not verdict(before + worse, "qat-decoders")
    rising = curve("qat-decoders", 0.3 + NOISE[:100] + np.arange(100) / 100, [0.3, 0.2], "activations")
    assert not verdict(before + rising, "qat-decoders")
    assert not verdict(before, "qat-decoders")  # never got there


def test_every_stage_has_to_behave_and_a_stage_without_rows_fails() -> None:
    good = curve("train-seismic", FALLING, [1.0, 0.3])
    mark, _ = marks.loss_falling(good, ["train-seismic", "train-diffusion"])
    assert (mark.passed, mark.value, mark.threshold) == (False, 1, 2)
    assert "train-diffusion" in mark.how
    assert verdict([*good, {"stage": "other", "step": 1, "loss": None}], "train-seismic")
    assert verdict([])  # imported and post-training quantised: nothing trains


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["stage", "step", "loss", "val_loss", "phase"]),
            st.one_of(st.none(), st.floats(), st.text(max_size=3), st.just("train-x")),
        )
    )
)
def test_any_rows_get_a_verdict(rows: list[dict]) -> None:
    mark, _ = marks.loss_falling(rows, ["train-x", "qat-x"])
    assert not mark.passed


def test_counts_and_size_have_strict_limits(tmp_path: Path) -> None:
    assert not marks.quantised_modules(30, 100).passed
    assert marks.quantised_modules(31, 100).passed
    assert not marks.quantised_modules(0, 0).passed
    assert marks.conv1d_left(0, 75).passed
    assert not marks.conv1d_left(1, 75).passed
    with (tmp_path / "big.pt").open("wb") as file:
        file.truncate(2_000_000_000)  # sparse
    assert not marks.file_size(tmp_path / "big.pt").passed
    with (tmp_path / "big.pt").open("wb") as file:
        file.truncate(1_999_999_999)
    assert marks.file_size(tmp_path / "big.pt").passed


def test_fidelity_needs_all_three_figures() -> None:
    assert marks.int8_fidelity(0.05, 0.05, 0.10, "x86").passed
    for bad in [(0.051, 0, 0), (0, 0.051, 0), (0, 0, 0.101), (float("nan"), 0, 0)]:
        assert not marks.int8_fidelity(*bad, "x86").passed


def test_generation_needs_every_check() -> None:
    checks = dict.fromkeys(marks.GENERATION_CHECKS, True)
    assert marks.generation(checks).passed
    for name in checks:
        assert not marks.generation(checks | {name: False}, ["why"]).passed
        assert name in marks.generation({k: v for k, v in checks.items() if k != name}).how


def test_diversity_is_relative_to_held_out_maps_and_finds_copies() -> None:
    held_out, train = torch.randn(80, 1, 70, 70), torch.randn(50, 1, 70, 70)
    mark, figures = marks.diversity(torch.randn(64, 1, 70, 70), held_out, train.split(7))
    assert mark.passed
    assert mark.value == pytest.approx(1, rel=0.02)
    assert figures.nearest_train > 50
    assert not marks.diversity(0.69 * torch.randn(64, 1, 70, 70), held_out)[0].passed
    assert marks.diversity(torch.cat([train[:1], held_out[:9]]), held_out, [train])[1].nearest_train == 0


def some_marks(**changes: bool) -> tuple[Mark, ...]:
    return tuple(Mark(i, changes.get(i, True), 0.5, 0.3, "how it was measured") for i in MARK_IDS)


def test_a_report_passes_only_with_every_mark() -> None:
    assert Report("r", some_marks()).passed
    assert not Report("r", some_marks(diversity=False)).passed
    assert not Report("r", some_marks()[1:]).passed


def test_report_json_is_json_even_with_figures_that_are_not_finite(tmp_path: Path) -> None:
    marks_ = (*some_marks()[:-1], Mark("beats_noise", False, float("nan"), 0.5, "x"))
    Report("r", marks_, {"deep": [{"a": float("inf")}]}).write(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert set(content) >= {"run", "passed", "marks"}
    assert all(set(m) == {"id", "passed", "value", "threshold", "how"} for m in content["marks"])
    assert content["marks"][-1]["value"] is None
    assert content["passed"] is False
    assert Report.read(tmp_path / "report.json").marks[-1].value is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format_version": 99}', '{"format_version": 1, "marks": 3}', "\xff"]
)
def test_a_damaged_report_gives_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"report\.json"):
        Report.read(tmp_path / "report.json")


def test_the_checklist_is_a_table_on_a_terminal_and_plain_lines_in_a_pipe() -> None:
    report = Report("trial", some_marks(file_size=False))
    piped = io.StringIO()
    print_checklist(report, Console(file=piped, width=40))
    lines = piped.getvalue().splitlines()
    assert len(lines) == len(MARK_IDS)
    assert all(line.count("\t") == 4 for line in lines)
    assert [line.split("\t")[1] for line in lines if line.startswith("FAILED")] == ["file_size"]
    table = io.StringIO()
    print_checklist(report, Console(file=table, width=80, force_terminal=True, no_color=True))
    assert "FAILED" in table.getvalue()
    assert "how it was measured" in table.getvalue()


def test_figures_are_written_with_their_units() -> None:
    mark = marks.int8_fidelity(0.0123, 0.034, 0.05, "x86")
    assert value_text(mark) == "velocity 1.23 %, seismic 3.4 %, unet_step 5 %"
    assert threshold_text(mark) == "<= velocity 5 %, seismic 5 %, unet_step 10 %"
    assert value_text(Mark("file_size", True, 151_000_000, 2e9, "")) == "151 MB"
    assert threshold_text(Mark("file_size", True, None, 2_000_000_000, "")) == "< 2 GB"
    assert value_text(Mark("beats_noise", False, None, 0.5, "")) == "not measured"


def test_reading_a_report_imports_no_torch() -> None:
    code = "import sys, ubq.verify.report; assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
