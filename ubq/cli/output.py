"""What commands print: data on stdout, words on stderr, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import sys

from ubq.plaintext import printable


def say(text: object = "", err: bool = False, end: str = "\n") -> None:
    """Print text, its control characters spelled out: names, logs and other words in it may not be of ubq."""
    print(printable(str(text)), end=end, file=sys.stderr if err else sys.stdout, flush=True)


def say_json(value: object) -> None:
    """One JSON object on stdout; characters that would reach a terminal as commands are escaped, as JSON allows."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    if not text.isascii() and printable(text) != text:
        text = json.dumps(value, indent=1)
    print(text.replace("\x7f", "\\u007f"), flush=True)
