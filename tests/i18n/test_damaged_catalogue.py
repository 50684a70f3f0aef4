"""A damaged translation costs its language, never the command."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from ubq import i18n


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(i18n, "LOCALE_DIR", tmp_path)
    file = tmp_path / "zh_CN/LC_MESSAGES/ubq.mo"
    file.parent.mkdir(parents=True)
    yield file
    monkeypatch.undo()
    i18n.set_language(None)


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xde\x12\x04\x95" + b"\xff" * 40])
def test_a_file_that_is_no_catalogue(content: bytes, catalogue: Path) -> None:
    catalogue.write_bytes(content)
    i18n.set_language("zh_CN")
    assert i18n.gettext("an empty file") == "an empty file"


def test_translations_that_could_not_be_filled_in(catalogue: Path) -> None:
    wrong = {
        "{path} is empty": "{file}",
        "{count} maps": "{count.__class__}",
        "{size:.1f} MB": "{size:9999999999}",
        "{name} here": "{name",
        "{a} of {b}": "{b} 中的 {a}",
    }
    entries = Catalog(locale="zh_CN")
    for message, translation in wrong.items():
        entries.add(message, translation)
    buffer = io.BytesIO()
    write_mo(buffer, entries)
    catalogue.write_bytes(buffer.getvalue())
    i18n.set_language("zh_CN")
    assert [i18n.gettext(m) for m in wrong] == [*list(wrong)[:4], "{b} 中的 {a}"]
