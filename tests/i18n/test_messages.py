"""The translation catalogue holds exactly the messages of the source, each translated with its placeholders."""

from __future__ import annotations

from pathlib import Path

import messages as tool
import pytest
from babel.messages.catalog import Catalog

import ubq.i18n as i18n


def test_messages_are_found_wherever_people_read_them() -> None:
    found = tool.messages()
    assert "cannot write {file}: {reason}" in found  # _("…")
    assert "Peak learning rate." in found  # help of a key
    assert "Batch size" in found  # a field's label
    assert "Folder that holds the runs; default: run.dir of the configuration here." in found  # help of an option
    assert any(m.startswith("Name every mistake at once") for m in found)  # a command
    assert any(m.startswith("Synthetic CurveFault-like pairs") for m in found)  # a preset


@pytest.mark.skipif(not tool.PO.is_file(), reason="no catalogue yet: make messages begins it")
def test_the_catalogue_is_complete() -> None:
    assert tool.problems() == [], "run: make messages, then translate what is empty"


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A complete catalogue in a folder of its own."""
    po = tmp_path / "locale" / "zh_CN" / "LC_MESSAGES" / "ubq.po"
    po.parent.mkdir(parents=True)
    monkeypatch.setattr(tool, "PO", po)
    monkeypatch.setattr(tool, "MO", po.with_suffix(".mo"))
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    wanted = {"missing {name}": ["a.py"], "hello": ["a.py"]}
    monkeypatch.setattr(tool, "messages", lambda: wanted)
    made = Catalog(locale="zh_CN")
    made.add("missing {name}", "缺少 {name}")
    made.add("hello", "你好")
    write(made)
    return made


def write(catalogue: Catalog) -> None:
    tool.PO.write_bytes(tool.po_bytes(catalogue))
    tool.MO.write_bytes(tool.mo_bytes(tool.read_catalogue()))


def test_a_complete_catalogue_has_no_problems_and_is_used(
    catalogue: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tool.problems() == []
    monkeypatch.setattr(i18n, "LOCALE_DIR", tmp_path / "locale")
    try:
        i18n.set_language("zh_CN.UTF-8")
        assert i18n.gettext("hello") == "你好"
        assert i18n.gettext("not in the catalogue") == "not in the catalogue"
    finally:
        i18n.set_language(None)


@pytest.mark.parametrize(
    ("message", "translation", "problem"),
    [
        ("gone", "没了", "stale"),
        ("hello", "", "not translated"),
        ("missing {name}", "缺少 {nme}", "other placeholders"),
    ],
)
def test_what_is_wrong_is_named(catalogue: Catalog, message: str, translation: str, problem: str) -> None:
    catalogue.delete(message)
    catalogue.add(message, translation)
    write(catalogue)
    assert [p.partition(":")[0] for p in tool.problems()] == [problem]


def test_a_new_message_is_missing_until_the_catalogue_is_updated(catalogue: Catalog) -> None:
    catalogue.delete("hello")
    write(catalogue)
    assert [p.partition(":")[0] for p in tool.problems()] == ["missing"]
    fresh = tool.updated(tool.read_catalogue())
    assert fresh["missing {name}"].string == "缺少 {name}"
    assert fresh["hello"].string == ""


def test_a_compiled_file_of_another_catalogue_is_noticed(catalogue: Catalog) -> None:
    catalogue["hello"].string = "您好"
    for content in (tool.mo_bytes(catalogue), b"", b"not a compiled catalogue"):
        tool.MO.write_bytes(content)
        assert len(tool.problems()) == 1
    tool.MO.unlink()
    assert len(tool.problems()) == 1


def test_another_version_of_babel_changes_nothing(catalogue: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("babel.messages.catalog.VERSION", "99.0")
    tool.MO.write_bytes(tool.mo_bytes(tool.read_catalogue()))
    assert b"Babel 99.0" in tool.MO.read_bytes()
    assert tool.problems() == []
