"""Translation of every string that people read; English is the source language.

Write ``_("{count} maps in {folder}").format(count=n, folder=path)``: the literal inside ``_()`` is
the message id, so it never holds an f-string. The language follows, highest first,
``set_language`` (``--lang``), ``UBQ_LANG``, ``language`` in ``interface.toml``, ``LC_ALL``,
``LC_MESSAGES``, ``LANG``.
"""

from __future__ import annotations

import gettext as _gettext
import os
import string
from functools import cache
from pathlib import Path

from ubq.interface import read_interface

LOCALE_DIR = Path(__file__).parent / "locale"
_translations: _gettext.NullTranslations | None = None
_language = "en"


def set_language(language: str | None) -> None:
    """Choose the language (``en``, ``zh_CN``); ``None`` goes back to the environment's."""
    global _translations, _language
    chosen = language or os.environ.get("UBQ_LANG") or read_interface().language
    chosen = chosen or next((os.environ[k] for k in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(k)), "en")
    name = chosen.split(".")[0].replace("-", "_")
    wanted = [name, "zh_CN"] if name.split("_")[0] == "zh" else [name]
    try:
        _translations = _gettext.translation("ubq", LOCALE_DIR, languages=wanted, fallback=True)
    except Exception:  # a damaged catalogue fails in many ways, and is no reason to say nothing
        _translations = _gettext.NullTranslations()
    _language = wanted[-1] if type(_translations) is _gettext.GNUTranslations else "en"
    _known.cache_clear()


def language() -> str:
    """The language that messages are in: ``en`` or that of a catalogue (``zh_CN``)."""
    if _translations is None:
        set_language(None)
    return _language


def gettext(message: str) -> str:
    """The message in the chosen language."""
    if _translations is None:
        set_language(None)
    return _known(message) if message else message


@cache
def _known(message: str) -> str:
    """The translation, where it has the same places to fill in; a damaged catalogue may have others."""
    assert _translations is not None
    found = _translations.gettext(message)
    return found if found == message or _places(found) == _places(message) else message


def _places(message: str) -> frozenset[tuple[str, str, str]] | None:
    """What ``str.format`` fills in, and how; None where it could not."""
    try:
        parsed = [entry for entry in string.Formatter().parse(message) if entry[1] is not None]
    except ValueError:
        return None
    return frozenset((name or "", form or "", conversion or "") for _text, name, form, conversion in parsed)
