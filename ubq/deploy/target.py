"""Where to deploy: ``[user@]host:path``, as scp spells it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ubq.errors import UsageError
from ubq.i18n import gettext as _

# no leading dash: ssh would take it for an option
_TARGET = re.compile(
    r"(?P<host>(?:[^@:\s/-][^@:\s/]*@)?(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^@:\s/\[\]-][^@:\s/]*)):(?P<path>.+)"
)


@dataclass(frozen=True)
class Target:
    """A folder on another machine.

    Attributes:
        host: for ssh: ``user@host``, ``host`` or an alias of the user's ssh configuration.
        path: absolute, or relative to the home folder there.
    """

    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"


def parse_target(text: str) -> Target:
    """Read ``[user@]host:path``.

    Raises:
        UsageError: it is not of that form.
    """
    match = _TARGET.fullmatch(text)
    if match is None or "\n" in text or "\0" in text:
        raise UsageError(_("{text} is no target").format(text=text), _("write it as pi@raspberrypi.local:/home/pi/ubq"))
    path = match["path"]
    if path == "~" or path.startswith("~/"):  # ssh starts in the home folder
        path = path[2:] or "."
    if path.startswith("-"):
        path = f"./{path}"
    return Target(match["host"].replace("[", "").replace("]", ""), path)
