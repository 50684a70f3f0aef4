"""Checkpoints that are written while training goes on: of a copy on the host, one at a time, by a thread.

A checkpoint counts, and is said to be there, only once it is durable. What went wrong in the thread is raised where
training next looks after it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ubq.cpu import memory_available
from ubq.training.context import Store


class Saver:
    """Saves of one training stage.

    Args:
        store: where checkpoints go.
        saved: called in the training's own thread with the step of a checkpoint that is durable.
    """

    def __init__(self, store: Store, saved: Callable[[int], None]) -> None:
        self._store, self._saved = store, saved
        self._thread: threading.Thread | None = None
        self._step = 0
        self._error: BaseException | None = None

    def save(self, step: int, payload: dict[str, object], wait: bool, copied: bool = False) -> None:
        """Save a step, after the save before is done; beside training where memory has room for a copy.

        Args:
            step: training steps done so far.
            payload: tensors and plain values, nested; they may change as soon as this returns.
            wait: return only when it is durable.
            copied: the payload is a copy on the host already, which nobody changes.

        Raises:
            UbqError, OSError: this or the save before failed; see ``CheckpointStore.save``.
        """
        self.settle(wait=True)
        if wait or not (copied or room_for_copy(payload)):
            self._store.save(step, payload)
            self._saved(step)
            return
        self._step = step
        kept = [payload if copied else on_host(payload)]
        self._thread = threading.Thread(target=self._write, args=(step, kept), name=f"save-{step}", daemon=True)
        self._thread.start()

    def _write(self, step: int, payload: list[dict[str, object]]) -> None:
        try:
            self._store.save(step, payload.pop())
        except BaseException as error:
            self._error = error

    def settle(self, wait: bool = False) -> None:
        """Look after a save that is under way: say that it is done, raise what went wrong with it.

        Raises:
            UbqError, OSError: it failed.
        """
        if self._thread is None or (self._thread.is_alive() and not wait):
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        self._saved(self._step)

    def let_end(self) -> None:
        """Wait for a save that is under way, where another error ends the training."""
        if self._thread is not None:
            self._thread.join()
            if self._error is None:
                self.settle()


def room_for_copy(payload: Mapping[str, object]) -> bool:
    """Whether a copy of a checkpoint fits the host's memory, with as much again for the training itself."""
    return memory_available() >= 2 * sum(storage.nbytes() for storage in _storages(payload, {}).values())


def on_host(payload: dict[str, object]) -> dict[str, object]:
    """A copy in the host's memory; tensors of the host that share their memory do so in the copy, too."""
    copies = {key: s.clone() for key, s in _storages(payload, {}).items() if s.device.type == "cpu"}

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.device.type != "cpu":
                return value.detach().cpu()
            held = copies[value.untyped_storage()._cdata]
            empty = torch.empty(0, dtype=value.dtype)
            return empty.set_(held, value.storage_offset(), value.shape, value.stride())
        if isinstance(value, dict):
            same = copy.copy(value)  # a state dict has attributes of its own
            same.update({key: copied(inner) for key, inner in value.items()})
            return same
        return type(value)(map(copied, value)) if isinstance(value, list | tuple) else value

    payload_copy: dict[str, object] = copied(payload)
    return payload_copy


def _storages(value: object, storages: dict[int, torch.UntypedStorage]) -> dict[int, torch.UntypedStorage]:
    """The storages of the tensors in nested dictionaries and lists, each once."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        storages[storage._cdata] = storage
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        _storages(inner, storages)
    return storages
