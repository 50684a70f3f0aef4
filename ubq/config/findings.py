"""What is wrong with a configuration, all of it at once, in words a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ubq.errors import UsageError
from ubq.i18n import gettext as _


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One mistake.

    Args:
        file: the file as the user would type it, or what stands in its place (``UBQ_SEED``, ``--set seed``).
        line: line of the key in that file, from 1; None where there is none.
        key: dotted key; empty when the file as a whole cannot be read.
        given: the value as TOML writes it.
        allowed: what may stand there.
        suggestion: did you mean, or the command that fixes it.
    """

    file: str
    line: int | None
    key: str
    given: str
    allowed: str
    suggestion: str = ""

    @property
    def location(self) -> str:
        """``ubq.toml:12``, or the option or variable."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        head = self.location + (f": {self.key}" if self.key and self.key not in self.location else "")
        value = self.given if len(self.given) <= 60 else self.given[:57] + "..."
        text = f"{head} = {value}: {self.allowed}" if self.key else f"{head}: {self.allowed}"
        return f"{text} ({self.suggestion})" if self.suggestion else text

    def as_dict(self) -> dict[str, str | int | None]:
        """The JSON object of ``--json``."""
        return asdict(self)


class ConfigError(UsageError):
    """A configuration that cannot be used: every mistake in it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        if len(self.findings) == 1:
            message = str(self.findings[0])
        else:
            head = _("{count} mistakes in the configuration").format(count=len(self.findings))
            message = "\n  ".join([head + ":", *map(str, self.findings)])
        super().__init__(message)
