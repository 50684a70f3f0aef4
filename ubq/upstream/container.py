"""Where the weights stand in a checkpoint file of another code base, and what else the file says of itself.

Layouts that are known: upstream's training files (``model`` with or without ``ema``), those of its QAT scripts
(``model_state_dict``), ``{state_dict: ...}`` as Lightning writes it too, and a bare state dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ubq.errors import CheckpointError
from ubq.i18n import gettext as _
from ubq.upstream.names import AVERAGED, canonical
from ubq.upstream.reading import (
    arrays_not_tensors,
    is_array,
    kind_of,
    load,
    load_weights,
    readable,
    weights_command,
)

_MODEL_ENTRIES = ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights")
_LAST_ENTRIES = ("params", "generator")
"""Names that other things have as well: these are weights where tensors are in them, and nowhere else."""
_EMA_ENTRIES = ("ema", "ema_model", "model_ema", "ema_state_dict", "ema_model_state_dict", "params_ema")
_STEP_ENTRIES = ("step", "global_step", "iteration")
_OF_DECODERS = ("best_ssim",)
"""Entries of the fork's training of encoder and decoders, and of its fine-tuning of them."""
_CONVERTED = "_packed_params"
_COUNTERS = ("initted", "step", "n_averaged")
"""Tensors that averages keep beside weights."""

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
    of_decoders: bool = False
    """Written while encoder and decoders were trained: a U-Net beside them may never have been."""
    fake_quantised: bool = False
    """It holds the buffers of quantisation-aware training."""
    notes: tuple[str, ...] = ()


def read_container(path: Path) -> Container:
    """Open a checkpoint file.

    Raises:
        CheckpointError: not a file, damaged, not a checkpoint, holds code, or holds no weights.
    """
    loaded = load(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(_("{path} holds {kind}, not a model's weights").format(path=path, kind=kind_of(loaded)))
    entry = next((e for e in _MODEL_ENTRIES if isinstance(loaded.get(e), Mapping)), None)
    if entry is None and not any(isinstance(value, Tensor) for value in loaded.values()):
        entry = next((e for e in _LAST_ENTRIES if _plain(loaded.get(e))), None)
    averages = next((loaded[e] for e in _EMA_ENTRIES if isinstance(loaded.get(e), Mapping)), None)
    if entry is not None:
        content = loaded[entry]
        inner = next((content[e] for e in _MODEL_ENTRIES if isinstance(content.get(e), Mapping)), content)
        tensors = _tensors(path, inner)
    elif any(isinstance(value, Tensor) for value in loaded.values()):
        # a bare state dict may stand beside plain facts
        tensors = _tensors(path, {n: v for n, v in loaded.items() if isinstance(v, Tensor)})
    elif averages is not None:
        tensors = {}
    else:
        entries = ", ".join(readable(name) for name in list(loaded)[:8]) or _("none")
        message = _("{path} holds no model; its entries: {entries}").format(path=path, entries=entries)
        if any(is_array(value) for value in loaded.values()):
            raise arrays_not_tensors(path, _("{path} holds NumPy arrays, not tensors").format(path=path))
        raise CheckpointError(message, _("give a file whose entry model holds the weights, a state_dict"))
    model, ema, observed = _named(tensors)
    notes: tuple[str, ...] = ()
    if averages is not None:
        averaged, notes = _averages(path, averages)
        ema |= averaged
    step = next((loaded[e] for e in _STEP_ENTRIES if e in loaded), None)
    return Container(
        path,
        model,
        ema,
        wrapped=entry not in (None, "state_dict"),
        step=_whole(step),
        of_decoders=any(e in loaded for e in _OF_DECODERS),
        fake_quantised=observed,
        notes=notes,
    )


def bare_weights(path: Path) -> dict[str, Any]:
    """The tensors of a file whose other content ``read_container`` refuses, laid out as it reads them.

    Raises:
        CheckpointError: the file cannot be read, or holds no tensors by name.
    """
    loaded = load_weights(path)
    weights: dict[str, Any] = {}
    if isinstance(loaded, Mapping):
        for entry in (*_MODEL_ENTRIES, *_LAST_ENTRIES, *_EMA_ENTRIES):
            if entry in loaded and (state := _plain(loaded[entry])):
                weights[entry] = state
        if not weights and (state := _plain(loaded)):
            weights["model"] = state
        step = _whole(next((loaded[e] for e in _STEP_ENTRIES if e in loaded), None))
        if weights and step is not None:
            weights["step"] = step
        if weights and "best_ssim" in loaded:
            weights["best_ssim"] = None
    if not weights:
        raise CheckpointError(_("{path} holds no tensors by name").format(path=path))
    return weights


def _plain(value: Any) -> dict[str, Any]:
    """The tensors of a state dict, of one in one, or of a pickled module, by name."""
    if not isinstance(value, Mapping):
        return {}
    tensors = {str(n): t for n, t in value.items() if isinstance(t, Tensor)}
    if not tensors:
        tensors = dict(_module_tensors(value))
    if tensors:
        return tensors
    nested = {str(n): _plain(v) for n, v in value.items() if str(n) in (*_MODEL_ENTRIES, *_EMA_ENTRIES)}
    return {n: v for n, v in nested.items() if v}


def _module_tensors(module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a pickled module, whose class is stood in for by a dictionary."""
    facts = getattr(module, "__dict__", {})
    for kind in ("_parameters", "_buffers"):
        entries = facts.get(kind)
        for name, tensor in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(tensor, Tensor):
                yield f"{prefix}{name}", tensor
    below = facts.get("_modules")
    for name, child in below.items() if isinstance(below, Mapping) and depth < 50 else ():
        yield from _module_tensors(child, f"{prefix}{name}.", depth + 1)


def _tensors(path: Path, entries: Mapping[Any, Any]) -> State:
    """The tensors of a state dict, each one with its values in the file.

    Raises:
        CheckpointError: an entry is no tensor of plain numbers.
    """
    for name, value in entries.items():
        if str(name).endswith(_CONVERTED) or (isinstance(value, Tensor) and value.is_quantized):
            raise CheckpointError(
                _("{path} holds int8 weights as PyTorch converts them, and no longer those they were made from").format(
                    path=path
                ),
                _("give the checkpoint from before the conversion, as final_qat_model.pt, or the float one"),
            )
        if not isinstance(value, Tensor):
            text = _("{path}: {name} is {kind}, not a tensor")
            message = text.format(path=path, name=readable(name), kind=kind_of(value))
            if is_array(value):
                raise arrays_not_tensors(path, message)
            some = any(isinstance(other, Tensor) for other in entries.values())
            fix = _("keep the tensors alone: {command}").format(command=weights_command(path)) if some else ""
            raise CheckpointError(message, fix)
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested or not _stored(value):
            raise CheckpointError(
                _("{path}: {name} is not a plain tensor with its values in the file").format(
                    path=path, name=readable(name)
                )
            )
    return {str(name): value.detach() for name, value in entries.items()}


def _stored(tensor: Tensor) -> bool:
    """Whether a tensor has a value in the file for each of its elements; a few bytes can pose as terabytes."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _named(tensors: State) -> tuple[State, State, bool]:
    """Weights and averages under upstream's own names, and whether buffers of fake quantisation were among them."""
    model: State = {}
    ema: State = {}
    observed = False
    for name, tensor in tensors.items():
        upstream_name = canonical(name)
        if upstream_name is None:
            observed = True
        elif upstream_name in _COUNTERS:
            continue
        elif upstream_name.startswith(AVERAGED):
            ema[upstream_name.removeprefix(AVERAGED)] = tensor
        else:
            model[upstream_name] = tensor
    return model, ema, observed


def _averages(path: Path, ema: Mapping[Any, Any]) -> tuple[State, tuple[str, ...]]:
    """The averaged weights of either upstream layout."""
    nested = next((ema[e] for e in ("ema_model", "shadow", *_MODEL_ENTRIES) if isinstance(ema.get(e), Mapping)), None)
    if nested is None:
        nested = {n: v for n, v in ema.items() if isinstance(v, Tensor)}
    model, averaged, _observed = _named(_tensors(path, nested))
    if not averaged:  # names that say of what they are the average only by where they stand
        averaged = model
    if averaged and _never_updated(ema.get("initted")):
        # ema-pytorch leaves the averages at the weights of the start until its first update
        return {}, (_("the averaged weights were never updated; the raw ones are used"),)
    return averaged, ()


def _never_updated(initted: Any) -> bool:
    if isinstance(initted, Tensor):
        return initted.numel() == 1 and not bool(initted)
    return initted is not None and not initted


def _whole(value: Any) -> int | None:
    """A count that a file names, where it is one."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    # comparisons are false of what is no number
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63
    return int(value) if whole else None
