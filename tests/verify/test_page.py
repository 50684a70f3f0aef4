"""The report page, as a file and as ``ubq report`` writes it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.verify.reported_run import DIGEST, make_run
from ubq.cli import main
from ubq.i18n import set_language
from ubq.stages.paths import RunPaths
from ubq.verify.report import EVIDENCE, MARK_IDS, REPORT, title

MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture
def run(whole: RunPaths, tmp_path: Path) -> RunPaths:
    shutil.copytree(whole.root, tmp_path / "runs" / "mine")
    return RunPaths(tmp_path / "runs" / "mine")


@pytest.fixture(autouse=True)
def _language(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("UBQ_LANG", "en")
    yield
    set_language(None)


def page_of(run: RunPaths, *arguments: str) -> str:
    assert main([*arguments, "report", str(run.root)]) == 0
    return (run.exported / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element's name and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_says_what_the_run_is(run: RunPaths) -> None:
    page = page_of(run)
    assert "<h1>mine</h1>" in page
    assert f"All {len(MARK_IDS)} success marks passed" in page
    assert all(title(mark) in page for mark in MARK_IDS)
    assert "E = 2.9" in page
    assert DIGEST in page
    assert "resumed at step 120" in page
    assert re.search(r"qat\.epochs</td><td class=\"mono long\">7</td>", page)
    assert "seismic_decoder.output" in page
    assert "quant.keep_float" in page
    assert "Some Processor @ 2.40GHz" in page
    assert "ubq sample" in page
    assert len(page.encode()) < MOST_BYTES


def test_the_page_needs_nothing_beside_it(run: RunPaths) -> None:
    ids = set()
    for tag, attributes in Elements(page_of(run)).found:
        assert tag not in ("script", "iframe", "object", "embed", "video", "audio"), tag
        for name in ("src", "href", "xlink:href", "data", "poster", "srcset"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), (tag, target)
        assert not any(name.startswith("on") for name in attributes)
        own = attributes.get("id")
        assert own is None or own not in ids, own
        ids.add(own)
    assert "@import" not in page_of(run)
    assert not re.search(r"url\((?!#)", page_of(run))


def test_a_failed_mark_is_the_verdict_and_says_how_it_was_measured(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "runs" / "bad", failed_mark="diversity"))
    assert f"1 of {len(MARK_IDS)} success marks failed" in page
    assert "how it was" in page
    assert "ubq doctor" in page


@pytest.mark.parametrize("torn", [False, True])
def test_a_run_that_failed_early_has_a_page(tmp_path: Path, torn: bool) -> None:
    paths = make_run(tmp_path / "runs" / "early")
    shutil.rmtree(paths.exported)
    shutil.rmtree(paths.root / "checkpoints")
    state = json.loads(paths.state.read_text())
    for stage in state["stages"][2:]:
        stage |= {"state": "pending", "step": 0, "seconds": 0.0, "machine": {}, "peak_memory": None}
    message = "the disk <b>is</b> full & gone"
    state["stages"][2] |= {"state": "failed", "error": {"message": message, "fix": "make room"}}
    state |= {"state": "failed", "error": {"stage": "train-seismic", "message": message, "fix": "make room"}}
    paths.state.write_text(json.dumps(state))
    if torn:
        paths.metrics.unlink()
        paths.events.unlink()
        paths.sources.write_text("{")
    page = page_of(paths)
    assert "Failed in train-seismic" in page
    assert "the disk &lt;b&gt;is&lt;/b&gt; full &amp; gone" in page
    assert "make room" in page
    assert "Not measured yet" in page


def test_marks_of_an_earlier_export_are_not_shown(run: RunPaths) -> None:
    state = json.loads(run.state.read_text())
    state["stages"][-1]["state"] = "failed"
    state |= {"state": "failed", "error": {"stage": "verify", "message": "killed", "fix": ""}}
    run.state.write_text(json.dumps(state))
    page = page_of(run)
    assert "Failed in verify" in page
    assert title("diversity") not in page


def test_damaged_or_older_files_leave_their_part_out(run: RunPaths) -> None:
    (run.exported / EVIDENCE).write_bytes(b"PK no more")
    (run.exported / "manifest.json").unlink()
    run.sources.unlink()
    page = page_of(run)
    assert "No pairs are kept with this run yet" in page
    assert f"All {len(MARK_IDS)} success marks passed" in page
    assert re.search(r"qat\.epochs</td><td class=\"mono long\">7</td><td[^>]*>set for this run", page)
    (run.exported / REPORT).write_text("[]")
    assert "Complete, without success marks" in page_of(run)


def test_the_page_is_in_the_language_of_who_asks(run: RunPaths) -> None:
    page = page_of(run, "--lang", "zh_CN")
    assert '<html lang="zh-CN">' in page
    assert "成功" in page
    assert "Success marks" not in page


def test_out_names_the_file_and_an_unwritable_one_is_one_line(
    run: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run.root), "--out", str(tmp_path / "new" / "to send.html")]) == 0
    assert "mine" in (tmp_path / "new" / "to send.html").read_text(encoding="utf-8")
    assert not (run.exported / "report.html").exists()
    assert main(["report", str(run.root), "--out", str(run.config / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
