"""Checkpoint files of other code bases: read without running anything they hold, and find the weights inside.

Layouts that are known: upstream's training files (``model`` with or without ``ema``), ``{state_dict: ...}``
and a bare state dict.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ubq.errors import CheckpointError
from ubq.i18n import gettext as _
from ubq.runtime.facts import is_torchscript

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_MODEL_ENTRIES = ("model", "state_dict", "model_state_dict")
_WRAPPERS = ("module.", "_orig_mod.")
_EMA_PREFIX = "ema_model."
_UNET_FIRST = "init_conv.weight"

State = dict[str, Tensor]


@dataclass(frozen=True)
class Container:
    """What a file holds: state dicts under upstream's names, tensors mapped from the file where its format allows."""

    path: Path
    model: State
    """The weights as last trained; empty when the file holds only averaged ones."""
    ema: State
    """Their moving averages: of the U-Net alone (fork) or of everything (paper); empty when there are none."""
    wrapped: bool
    """The weights stand inside a training file, and not bare."""
    step: int | None
    notes: tuple[str, ...] = ()


def read_container(path: Path) -> Container:
    """Open a checkpoint file.

    Raises:
        CheckpointError: not a file, damaged, not a checkpoint, holds code, or holds no weights.
    """
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            _("{path} holds a {kind}, not a model's weights").format(path=path, kind=type(loaded).__name__)
        )
    entry = next((e for e in _MODEL_ENTRIES if isinstance(loaded.get(e), Mapping)), None)
    if entry is not None:
        model = _state(path, loaded[entry])
    elif any(isinstance(value, Tensor) for value in loaded.values()):
        return Container(path, _state(path, loaded), {}, wrapped=False, step=None)
    elif isinstance(loaded.get("ema"), Mapping):
        model = {}
    else:
        entries = ", ".join(map(str, list(loaded)[:8])) or _("none")
        raise CheckpointError(_("{path} holds no model; its entries: {entries}").format(path=path, entries=entries))
    ema, notes = _averages(path, loaded.get("ema"))
    return Container(path, model, ema, wrapped=entry != "state_dict", step=_whole(loaded.get("step")), notes=notes)


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise CheckpointError(
            _("{path} cannot be read: {reason}").format(path=path, reason=error.strerror or error)
        ) from None
    zipped = head == _ZIP_MAGIC
    if not zipped and head[:1] != _PICKLE_MAGIC:
        raise CheckpointError(_("{path} is not a PyTorch checkpoint").format(path=path))
    if zipped and is_torchscript(path):
        raise CheckpointError(
            _("{path} is a TorchScript file, not a checkpoint").format(path=path),
            _("give the training checkpoint that it was exported from"),
        )
    try:
        # torch warns about pickle protocols it then refuses
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                _("{path} holds code or objects beside weights ({name}), which ubq refuses to run").format(
                    path=path, name=found[1]
                ),
                _("if you trust it, save its weights alone: torch.save({'model': model.state_dict()}, FILE)"),
            ) from None
        raise _damaged(path) from None
    # a damaged file fails in any way that a pickle or a zip archive can
    except Exception:
        raise _damaged(path) from None


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        _("{path} is truncated, damaged or not a PyTorch checkpoint").format(path=path),
        _("copy or download it again"),
    )


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy number (a best score, say) is made of; under numpy 1's and 2's module names."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
    ]


def _state(path: Path, entries: Mapping[Any, Any]) -> State:
    """Tensors by name, without the prefixes of DataParallel and torch.compile; a bare U-Net gets its own."""
    for name, value in entries.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                _("{path}: {name} is a {kind}, not a tensor").format(path=path, name=name, kind=type(value).__name__)
            )
    state = {str(name): value.detach() for name, value in entries.items()}
    for wrapper in _WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    if _UNET_FIRST in state:
        state = {f"unet.{name}": value for name, value in state.items()}
    return state


def _averages(path: Path, ema: Any) -> tuple[State, tuple[str, ...]]:
    """The averaged weights of either upstream layout."""
    if not isinstance(ema, Mapping):
        return {}, ()
    nested = ema.get("ema_model")
    if isinstance(nested, Mapping):
        averages = dict(nested)
    else:
        averages = {n.removeprefix(_EMA_PREFIX): v for n, v in ema.items() if str(n).startswith(_EMA_PREFIX)}
    if averages and not bool(ema.get("initted", True)):
        # ema-pytorch leaves the averages at the weights of the start until its first update
        return {}, (_("the averaged weights were never updated; the raw ones are used"),)
    return _state(path, averages), ()


def _whole(value: Any) -> int | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return int(value) if isinstance(value, int | float | np.integer) else None
