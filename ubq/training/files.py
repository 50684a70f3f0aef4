"""Weights and small facts that one stage leaves for the next, written so that a crash never leaves half a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ubq.durable import dump_json, parse_json, verified, write_atomic
from ubq.errors import StageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a flat dictionary of tensors; the file appears whole or not at all, and has been read back when it does."""
    import torch

    with verified(path) as file:
        torch.save({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, cast("IO[bytes]", file))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what ``save_tensors`` wrote, memory-mapped.

    Raises:
        StageError: the file is not there or cannot be read.
    """
    import torch

    try:
        loaded: dict[str, Tensor] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except FileNotFoundError:
        raise StageError(
            _("{path} is missing").format(path=path), _("run the stage before it: ubq resume without --only")
        ) from None
    except Exception as error:
        raise StageError(
            _("{path} cannot be read: {error}").format(path=path, error=str(error).splitlines()[0]),
            _("remove the file and resume: its stage runs again"),
        ) from error
    return loaded


def save_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, dump_json(facts, indent=2))


def load_json(path: Path) -> dict[str, Any]:
    """Read what ``save_json`` wrote.

    Raises:
        StageError: the file is not there.
    """
    try:
        facts: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(
            _("{path} is missing").format(path=path), _("run the stage before it: ubq resume without --only")
        ) from None
    return facts
