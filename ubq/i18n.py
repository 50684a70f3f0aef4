"""Translation of every string that people read; English is the source language.

Write ``_("{count} maps in {folder}").format(count=n, folder=path)``: the literal inside ``_()`` is
the message id, so it never holds an f-string. The language follows, highest first,
``set_language`` (``--lang``), ``UBQ_LANG``, ``language`` in ``interface.toml``, ``LC_ALL``,
``LC_MESSAGES``, ``LANG``.

What is stored of a message is its id and the values that were filled in, beside the text in English
(:func:`storable`); :func:`restored` says it in the language of whoever reads it.
"""

from __future__ import annotations

import gettext as _gettext
import os
import string
from collections.abc import Iterable
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from ubq.interface import read_interface

LOCALE_DIR = Path(__file__).parent / "locale"
STORED = "messages"
"""Key in a stored record: for each of its texts that is a message, how to say it in another language."""
_translations: _gettext.NullTranslations | None = None
_language = "en"


class Message(str):
    """A text in the chosen language that can be stored and said in another one.

    Attributes:
        english: the same in English.
        stored: as JSON: ``{"id", "values"}``, the values by name; or a list of texts and such objects, one after the
            other.
    """

    english: str
    stored: dict[str, Any] | list[Any]

    @classmethod
    def of(cls, text: str, english: str, stored: dict[str, Any] | list[Any]) -> Message:
        """A text with what it says."""
        message = cls(text)
        message.english, message.stored = english, stored
        return message

    def format(self, *args: object, **values: object) -> str:
        """As ``str.format``; with named values alone the result is a message, too."""
        text = super().format(*args, **values)
        if args or not isinstance(self.stored, dict):
            return text
        same = self.english == str(self) and not any(isinstance(v, Message) for v in values.values())
        english = text if same else str.format(self.english, **{k: in_english(v) for k, v in values.items()})
        return Message.of(text, english, {**self.stored, "values": {k: _value(v) for k, v in values.items()}})


def joined(separator: str, parts: Iterable[str]) -> str:
    """As ``separator.join(parts)``, and a message where a part is one."""
    parts = list(parts)
    text = separator.join(parts)
    if not any(isinstance(part, Message) for part in parts):
        return text
    stored = [part for one in parts for part in (separator, _value(one))][1:]
    return Message.of(text, separator.join(str(in_english(part)) for part in parts), stored)


def in_english(value: Any) -> Any:
    """The English of a message; anything else as it is."""
    return value.english if isinstance(value, Message) else value


def _value(value: object) -> object:
    """A value that was filled in, as JSON holds it."""
    if isinstance(value, Message):
        return value.stored
    if value is None or isinstance(value, str | int):
        return value
    return float(value) if isinstance(value, Real) else str(value)


def storable(value: Any) -> Any:
    """Records as they are stored: messages in English, and in each record under ``STORED`` what they say."""
    if isinstance(value, dict):
        messages = {k: message for k, v in value.items() if (message := _stored(v)) is not None}
        return {k: storable(v) for k, v in value.items()} | ({STORED: messages} if messages else {})
    if isinstance(value, list | tuple):
        return [storable(v) for v in value]
    return in_english(value)


def _stored(value: Any) -> object:
    """What is stored beside a message, or beside a list that holds some; None for anything else."""
    if isinstance(value, list | tuple) and any(isinstance(v, Message) for v in value):
        return [_value(v) if isinstance(v, Message) else None for v in value]
    return value.stored if isinstance(value, Message) else None


def restored(value: Any) -> Any:
    """What :func:`storable` made, with its messages in the chosen language; those it cannot say stay as stored."""
    if isinstance(value, dict):
        messages = value.get(STORED)
        record = {k: restored(v) for k, v in value.items() if k != STORED or not isinstance(messages, dict)}
        for key, message in messages.items() if isinstance(messages, dict) else ():
            text = record.get(key)
            if isinstance(text, list) and isinstance(message, list):
                record[key] = [_again(t, m) for t, m in zip(text, message, strict=False)] + text[len(message) :]
            else:
                record[key] = _again(text, message)
        return record
    return [restored(v) for v in value] if isinstance(value, list) else value


def _again(text: Any, message: Any) -> Any:
    """A stored text as its message says it; itself where there is none."""
    if not isinstance(text, str) or not isinstance(message, dict | list):
        return text
    return Message.of(_said(message) or text, text, message)


def _said(message: Any) -> str | None:
    """A stored message in the chosen language; None where its catalogue has none of this id: files are foreign text."""
    if isinstance(message, list):
        parts = [_said(part) if isinstance(part, dict | list) else str(part) for part in message]
        return None if None in parts else "".join(map(str, parts))
    wording = gettext(message["id"]) if isinstance(message.get("id"), str) else ""
    values = message.get("values", {})
    if wording == message.get("id") or not isinstance(values, dict):
        return None
    filled = {k: _said(v) if isinstance(v, dict | list) else v for k, v in values.items()}
    try:
        return None if None in filled.values() else str.format(wording, **filled)
    except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError):
        return None


def set_language(language: str | None) -> None:
    """Choose the language (``en``, ``zh_CN``); ``None`` goes back to the environment's."""
    global _translations, _language
    chosen = language or os.environ.get("UBQ_LANG") or read_interface().language
    chosen = chosen or next((os.environ[k] for k in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(k)), "en")
    name = chosen.split(".")[0].replace("-", "_")
    languages = [name, "zh_CN"] if name.split("_")[0] == "zh" else [name]
    try:
        _translations = _gettext.translation("ubq", LOCALE_DIR, languages=languages, fallback=True)
    except Exception:  # a damaged catalogue fails in many ways, and is no reason to say nothing
        _translations = _gettext.NullTranslations()
    _language = languages[-1] if type(_translations) is _gettext.GNUTranslations else "en"
    _known.cache_clear()


def language() -> str:
    """The language that messages are in: ``en`` or that of a catalogue (``zh_CN``)."""
    if _translations is None:
        set_language(None)
    return _language


def gettext(message: str) -> str:
    """The message in the chosen language, a :class:`Message`."""
    if _translations is None:
        set_language(None)
    return _known(message) if message else message


@cache
def _known(message: str) -> Message:
    """The translation, where it has the same places to fill in; a damaged catalogue may have others."""
    assert _translations is not None
    translation = _translations.gettext(message)
    right = translation == message or _places(translation) == _places(message)
    return Message.of(translation if right else message, message, {"id": message})


def _places(message: str) -> frozenset[tuple[str, str, str]] | None:
    """What ``str.format`` fills in, and how; None where it could not."""
    try:
        parsed = [entry for entry in string.Formatter().parse(message) if entry[1] is not None]
    except ValueError:
        return None
    return frozenset((name or "", form or "", conversion or "") for _text, name, form, conversion in parsed)
