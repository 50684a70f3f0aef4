"""What a job asks Slurm for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ubq.errors import UsageError
from ubq.i18n import gettext as _

WARNING_S = 180
"""Seconds before its time limit at which a job is told to save."""
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_OPTION = re.compile(r"[a-z][a-z-]*")


@dataclass(frozen=True)
class Request:
    """Nodes, time and the rest; what is empty or 0 is left to the cluster."""

    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 0
    time: str = ""
    """As Slurm writes it: minutes, H:M:S, D-H:M:S, ..."""
    partition: str = ""
    account: str = ""
    more: Mapping[str, str] = field(default_factory=dict)
    """Other options of ``sbatch`` by their long names; an empty value where they take none."""

    def __post_init__(self) -> None:
        seconds(self.time)

    @classmethod
    def from_dict(cls, raw: object) -> Self:
        """What was asked for before, as JSON holds it; the defaults where that is unusable."""
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            return cls(**{k: v for k, v in raw.items() if k in names}) if isinstance(raw, dict) else cls()
        except (TypeError, UsageError):
            return cls()

    def changed(self, values: Mapping[str, Any]) -> Request:
        """With other values; those that are None stay."""
        return dataclasses.replace(self, **{k: v for k, v in values.items() if v is not None})

    @property
    def warning(self) -> int:
        """Seconds before the time limit at which the processes are told to save."""
        limit = seconds(self.time)
        return min(WARNING_S, limit // 2) if limit else WARNING_S


def seconds(time: str) -> int:
    """A time limit as Slurm writes it, in seconds; 0 for none.

    Raises:
        UsageError: it is not written so.
    """
    if not time:
        return 0
    match = _TIME.fullmatch(time)
    days, first, second, third = match.groups() if match else (None,) * 4
    numbers = [int(n) for n in (first, second, third) if n is not None]
    # D-H[:M[:S]], H:M:S, M[:S]
    units = (3600, 60, 1) if days or len(numbers) == 3 else (60, 1)
    total = int(days or 0) * 86400 + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    if not total:
        raise UsageError(
            _("{time} is no time limit of Slurm").format(time=time),
            _("write it as --time 24:00:00 or --time 2-12:00:00"),
        )
    return total


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` or ``KEY``, other options of ``sbatch``.

    Raises:
        UsageError: one of them is no such option.
    """
    options = {}
    for text in texts:
        key, _equals, value = text.lstrip("-").partition("=")
        if not _OPTION.fullmatch(key) or not value.isprintable():
            raise UsageError(
                _("--sbatch {option}: no long option of sbatch").format(option=text),
                _("write it as --sbatch KEY=VALUE or --sbatch KEY, as --sbatch constraint=a100"),
            )
        options[key] = value
    return options
