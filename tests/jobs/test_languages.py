"""What a run keeps is a message's id and its values: it reads in the language of whoever reads it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy

from ubq.cli.describe import describe, plan_text
from ubq.i18n import Message, in_english, joined, restored, set_language, storable
from ubq.i18n import gettext as _
from ubq.jobs.checks.check import Check
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import dry_run, start_run
from ubq.jobs.status import snapshot
from ubq.stages.page import write_report_page
from ubq.stages.paths import RunPaths
from ubq.tui.checklist import run_checks
from ubq.verify import marks
from ubq.verify.report import Report

ENGLISH, CHINESE = "stage export ended without making", "阶段 export 结束，但没有生成"


@pytest.fixture(autouse=True)
def own_language() -> Iterator[None]:
    yield
    set_language(None)


class Lazy(toy.Export):
    """Fails with a message of ubq's own."""

    def run(self, context: Any) -> None:
        pass


def failed_run(root: Path) -> RunPaths:
    paths = RunPaths(root)
    assert start_run(toy.toy_config(epochs=20), paths, stages=[*toy.stages()[:3], Lazy()], console=QuietConsole()) == 1
    return paths


@pytest.mark.parametrize(("writer", "reader"), [("en", "zh_CN"), ("zh_CN", "en"), ("zh_CN", "zh_CN")])
def test_a_failed_run_reads_in_the_reader_s_language(tmp_path: Path, writer: str, reader: str) -> None:
    set_language(writer)
    paths = failed_run(tmp_path / "run")
    on_disk = json.loads(paths.state.read_bytes())["error"]
    assert on_disk["message"].startswith(ENGLISH)
    assert on_disk["fix"] == "this is a defect of ubq; please report it with run.log"

    set_language(reader)
    says = ENGLISH if reader == "en" else CHINESE
    page = tmp_path / "page.html"
    write_report_page(paths, snapshot(paths.root).state.as_dict(), page)
    texts = {
        "status": describe(snapshot(paths.root)),
        "checklist": "\n".join(c.figure for c in run_checks(paths.root)),
        "page": page.read_text(),
    }
    for where, text in texts.items():
        assert says in text, where
        assert (ENGLISH if reader != "en" else CHINESE) not in text, where
    words = ("completed", "loss ", "best ", "failed")
    status = texts["status"].replace(str(tmp_path), "")
    assert [w for w in words if w in status] == (list(words) if reader == "en" else [])


def test_a_plan_is_in_the_reader_s_language(tmp_path: Path) -> None:
    paths = failed_run(tmp_path / "run")
    set_language("zh_CN")
    stages = [*toy.stages()[:3], Lazy()]
    text = plan_text(dry_run(toy.toy_config(epochs=20), paths, stages=stages))
    assert "已是最新" in text
    assert not {"run", "failed", "up", "date"} & set(text.split())


def test_what_an_older_ubq_stored_stays_as_it_is(tmp_path: Path) -> None:
    paths = failed_run(tmp_path / "run")
    state = json.loads(paths.state.read_bytes())
    for entry in (state, *state["stages"]):
        if entry["error"]:
            entry["error"] = {"message": "一个错误", "fix": "do this", "stage": "export"}
    paths.state.write_text(json.dumps(state))
    set_language("zh_CN")
    assert "一个错误" in describe(snapshot(paths.root))
    set_language("en")
    assert "一个错误" in describe(snapshot(paths.root))


def test_marks_read_in_the_reader_s_language(tmp_path: Path) -> None:
    set_language("zh_CN")
    mark, _trends = marks.loss_falling([], ["qat-decoders"])
    Report("run", (mark, marks.quantised_modules(1, 10))).write(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_bytes())["marks"][0]["how"]
    assert stored == "qat-decoders: 0 validation losses, two are needed"
    assert "需要两个" in Report.read(tmp_path / "report.json").marks[0].how
    set_language("en")
    assert Report.read(tmp_path / "report.json").marks[0].how == stored


def test_a_message_in_a_message_and_beside_others_is_said_anew() -> None:
    set_language("zh_CN")
    inner = _("make room on that disk")
    check = Check(id="a", status="failed", figure=joined("; ", [inner, _("error: {error}").format(error=inner), "x"]))
    record = storable({"check": check.figure, "plain": "y", "deep": [{"fix": inner}], "several": [inner, "z"]})
    assert record["check"] == "make room on that disk; error: make room on that disk; x"
    record = json.loads(json.dumps(record))
    assert restored(record) == {"check": check.figure, "plain": "y", "deep": [{"fix": inner}], "several": [inner, "z"]}
    set_language("en")
    english = restored(record)
    assert english["check"] == record["check"]
    assert english["several"] == ["make room on that disk", "z"]
    assert storable(english) == record  # nothing is lost by reading and writing


@pytest.mark.parametrize(
    "said",
    [
        {"id": "{x:>9999999999}", "values": {"x": "a"}},
        {"id": "{x.__class__}", "values": {"x": "a"}},
        {"id": "error: {error}", "values": {}},
        {"id": "error: {error}", "values": []},
        {"id": "loss {loss:.4g}", "values": {"loss": "a"}},
        {"id": 3},
        {},
        [{"id": "unknown"}, "x"],
    ],
)
def test_a_stored_message_that_cannot_be_said_stays_as_stored(said: Any) -> None:
    set_language("zh_CN")
    assert restored({"message": "as stored", "messages": {"message": said}}) == {"message": "as stored"}


def test_messages_are_texts_like_others() -> None:
    set_language("zh_CN")
    text = _("error: {error}").format(error="x")
    assert isinstance(text, Message)
    assert in_english(text) == "error: x"
    for same in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert (same, in_english(same)) == (text, "error: x")
