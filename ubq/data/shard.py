"""One part of a list of files, for commands that several machines work on: ``--shard 2/8``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from ubq.errors import UsageError
from ubq.i18n import gettext as _

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``count`` parts; the parts are disjoint, and together they are the whole."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """``i/n``, from ``1/n`` to ``n/n``; the whole for an empty text.

        Raises:
            UsageError: it is not written so.
        """
        if not text:
            return cls(1, 1)
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        shard = cls(*map(int, match.groups())) if match else cls(0)
        if not 1 <= shard.number <= shard.count:
            raise UsageError(
                _("--shard {text}: no part of a whole").format(text=text), _("write it as 1/8, 2/8, ... 8/8")
            )
        return shard

    def of(self, items: Sequence[_Item]) -> list[_Item]:
        """This part of a list: every ``count``-th item, so that the parts are alike."""
        return list(items[self.number - 1 :: self.count])

    @property
    def whole(self) -> bool:
        """Whether there is one part only."""
        return self.count == 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard()
