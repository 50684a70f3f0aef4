"""The messages that people read, out of the source, and the translation catalogue that follows them.

    python tests/i18n/messages.py           # bring ubq.po up to date: new messages empty, gone ones out; write ubq.mo
    python tests/i18n/messages.py --check   # say what is missing, stale or broken; exit 1 where anything is

Besides ``_("…")`` these are messages: the help of every configuration key (``ubq.config.schema``), the help of
commands and options (``ubq.cli``), the descriptions of presets.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[2]
PO = ROOT / "ubq" / "locale" / "zh_CN" / "LC_MESSAGES" / "ubq.po"
MO = PO.with_suffix(".mo")
HEADER = "# Simplified Chinese translation of ubq.\n# Licensed as ubq is: Apache-2.0.\n#"
_PLACEHOLDER = re.compile(r"\{(\w*)[^{}]*\}")


def messages() -> dict[str, list[str]]:
    """Every message with the files it stands in."""
    found: dict[str, list[str]] = {}

    def add(message: str, place: str) -> None:
        if message.strip() and place not in found.setdefault(message, []):
            found[message].append(place)

    methods = [("**.py", "python"), ("**.html", "jinja2")]
    extracted = extract_from_dir(ROOT / "ubq", methods, keywords={"_": None, "gettext": None})
    for name, _line, message, _comments, _context in extracted:
        add(message if isinstance(message, str) else message[0], f"ubq/{name}")
    for file in sorted((ROOT / "ubq" / "cli").glob("*.py")):
        for message in _command_line(ast.parse(file.read_text(encoding="utf-8")), file.stem):
            add(message, f"ubq/cli/{file.name}")
    for message in _configuration():
        add(message, "ubq/config/schema.py")
    return dict(sorted(found.items()))


def _command_line(tree: ast.Module, module: str) -> Iterator[str]:
    """Help of options and groups, and the docstrings of commands."""
    from ubq.cli import COMMANDS

    named = {c.partition(":")[2] for c in COMMANDS.values() if c.partition(":")[0] == f"ubq.cli.{module}"}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
        if isinstance(node, ast.FunctionDef):
            decorators = [ast.unparse(d) for d in node.decorator_list]
            if node.name in named or any(d.startswith(("app.command", "app.callback")) for d in decorators):
                yield inspect.cleandoc(ast.get_docstring(node) or "")


def _configuration() -> Iterator[str]:
    from ubq.config import keys, presets

    for key in keys.all_keys().values():
        yield key.help
    for preset in presets.listing():
        yield preset.description


def read_catalogue() -> Catalog:
    """The catalogue as it is; an empty one where there is none."""
    if not PO.is_file():
        return Catalog(locale="zh_CN", project="ubq", header_comment=HEADER)
    with open(PO, "rb") as file:
        return read_po(file, locale="zh_CN", abort_invalid=True)


def updated(catalogue: Catalog) -> Catalog:
    """The catalogue with exactly the messages of the source; translations that are still wanted are kept."""
    fresh = Catalog(
        locale="zh_CN",
        project="ubq",
        header_comment=HEADER,
        creation_date=catalogue.creation_date if PO.is_file() else None,
        revision_date=catalogue.revision_date if PO.is_file() else None,
    )
    for message, places in messages().items():
        known = catalogue.get(message)
        fresh.add(message, known.string if known else "", [(place, 0) for place in places])
    return fresh


def po_bytes(catalogue: Catalog) -> bytes:
    """The text of ``ubq.po``; without line numbers, which would change with every edit."""
    buffer = io.BytesIO()
    write_po(buffer, catalogue, width=110, include_lineno=False, sort_output=True, ignore_obsolete=True)
    return buffer.getvalue()


def mo_bytes(catalogue: Catalog) -> bytes:
    """The compiled catalogue."""
    buffer = io.BytesIO()
    write_mo(buffer, catalogue)
    return buffer.getvalue()


def problems() -> list[str]:
    """What is wrong with the catalogue, one line each."""
    catalogue = read_catalogue()
    wanted = messages()
    known = {str(m.id): str(m.string) for m in catalogue if m.id}
    found = [f"missing: {m!r} ({wanted[m][0]})" for m in wanted if m not in known]
    found += [f"stale: {m!r}" for m in known if m not in wanted]
    for message, translation in known.items():
        if not translation:
            found.append(f"not translated: {message!r}")
        elif sorted(_PLACEHOLDER.findall(message)) != sorted(_PLACEHOLDER.findall(translation)):
            found.append(f"other placeholders: {message!r} -> {translation!r}")
    if _compiled() != {k: v for k, v in known.items() if v}:
        found.append(f"{MO.relative_to(ROOT)} is not that of the .po file")
    return found


def _compiled() -> dict[str, str]:
    """The messages of ``ubq.mo``, without its header, which names the version of Babel; none where it can't be read."""
    try:
        with open(MO, "rb") as file:
            return {str(m.id): str(m.string) for m in read_mo(file) if m.id}
    except (OSError, struct.error):
        return {}


def main() -> int:
    if "--check" in sys.argv[1:]:
        found = problems()
        print("\n".join(found) or "the catalogue is up to date")
        return 1 if found else 0
    catalogue = updated(read_catalogue())
    PO.parent.mkdir(parents=True, exist_ok=True)
    PO.write_bytes(po_bytes(catalogue))
    MO.write_bytes(mo_bytes(catalogue))
    empty = sum(1 for m in catalogue if m.id and not m.string)
    print(f"{PO.relative_to(ROOT)}: {len(catalogue)} messages, {empty} to translate")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
