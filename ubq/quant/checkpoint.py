"""``final_qat_decoders.pt`` and ``final_qat_model.pt``: a fake-quantised generator with all it takes to rebuild it.

The file is ``torch.save`` of plain values and tensors, loaded with ``weights_only``::

    format "ubq-qat" · version 1 · sizes · normalization · quant · export · distilled · parts · metadata · state

``state`` is the generator's state dict restricted to ``parts``: float weights, observer ranges, phases.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.normalization import Normalization
from ubq.durable import verified
from ubq.errors import CheckpointError
from ubq.i18n import gettext as _
from ubq.model import ModelSizes, UBDiff
from ubq.model.parts import DEPLOYED
from ubq.quant.generator import Generator, Recipe, deployable, part_of
from ubq.quant.phases import quant_layers
from ubq.quant.prepare import kept_float, prepare_qat, restore_float

FORMAT = "ubq-qat"
VERSION = 1


@dataclass(frozen=True)
class QatCheckpoint:
    """What ``load_qat`` returns.

    Attributes:
        generator: fake-quantised; parts that the file does not hold are on the meta device.
        recipe: how it was built.
        parts: names of ``DEPLOYED`` that the file holds.
        metadata: whatever the writer noted.
    """

    generator: Generator
    recipe: Recipe
    parts: tuple[str, ...]
    metadata: dict[str, Any]


def save_qat(
    path: Path,
    generator: Generator,
    recipe: Recipe,
    parts: Sequence[str] = tuple(DEPLOYED),
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a fake-quantised generator, or some of its parts; the file appears whole and read back, or not at all.

    Args:
        path: of the file.
        generator: with the weights to keep (the averaged ones).
        recipe: that it was built from.
        parts: names of ``DEPLOYED``.
        metadata: plain values to keep with it.
    """
    quant = recipe.quant.model_copy(update={"keep_float": kept_float(generator, recipe.quant)})
    state = {n: t.detach().cpu() for n, t in generator.state_dict().items() if part_of(n) in parts}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "sizes": recipe.sizes.to_dict(),
        "normalization": recipe.normalization.to_dict(),
        "quant": quant.model_dump(mode="json"),
        "export": recipe.export.model_dump(mode="json"),
        "distilled": recipe.distilled,
        "parts": list(parts),
        "metadata": dict(metadata or {}),
        "state": state,
    }
    with verified(path) as file:
        torch.save(document, cast("IO[bytes]", file))


def is_qat(path: Path) -> bool:
    """Whether a file is one that ``save_qat`` wrote."""
    try:
        document = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception:
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def sizes_and_parts(path: Path) -> tuple[ModelSizes, tuple[str, ...]]:
    """Sizes of the model of a file that ``save_qat`` wrote, and the names of ``DEPLOYED`` that it holds.

    Raises:
        CheckpointError: not such a file.
    """
    document = _read(path)
    try:
        return ModelSizes.from_dict(document["sizes"]), tuple(document["parts"])
    except (LookupError, TypeError, AttributeError) as error:
        raise _not_ours(path) from error


def load_qat(path: Path) -> QatCheckpoint:
    """Rebuild the generator of a file, memory-mapped.

    Raises:
        CheckpointError: not such a file, one of a newer ubq, or its tensors do not fit its sizes.
    """
    document = _read(path)
    try:
        recipe = Recipe(
            sizes=ModelSizes.from_dict(document["sizes"]),
            normalization=Normalization.from_dict(document["normalization"]),
            quant=QuantConfig(**document["quant"]),
            export=ExportConfig(**document["export"]),
            distilled=bool(document.get("distilled", False)),  # none of an older ubq is
        )
        generator = skeleton(recipe)
        parts = tuple(document["parts"])
        _assign(generator, document["state"], parts, path)
        return QatCheckpoint(generator, recipe, parts, document["metadata"])
    # what values that no ubq has written lead to
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise _not_ours(path) from error


def _not_ours(path: Path) -> CheckpointError:
    return CheckpointError(_("{path} is not a QAT checkpoint of ubq").format(path=path), _("run the QAT stage again"))


def load_parts(generator: Generator, path: Path) -> tuple[str, ...]:
    """Put the parts that a file holds into a generator of the same recipe; the other parts stay as they are.

    Layers of those parts that the file keeps in float become float layers of the generator.

    Returns:
        Names of those parts.

    Raises:
        CheckpointError: as ``load_qat``.
    """
    document = _read(path)
    parts = tuple(document["parts"])
    patterns = document["quant"]["keep_float"]
    names = [n for n in quant_layers(generator) if part_of(n) in parts]
    restore_float(generator, [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)])
    _assign(generator, document["state"], parts, path)
    return parts


def skeleton(recipe: Recipe) -> Generator:
    """A fake-quantised generator without weights: every parameter on the meta device."""
    with torch.device("meta"):
        model = UBDiff(recipe.sizes)
    generator = deployable(model, recipe, keep_model=False)
    prepare_qat(generator, recipe.quant)
    return generator


def _read(path: Path) -> dict[str, Any]:
    try:
        document = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except FileNotFoundError:
        raise CheckpointError(
            _("{path} is missing").format(path=path), _("give a file that a QAT stage wrote")
        ) from None
    except Exception as error:
        raise CheckpointError(
            _("{path} cannot be read: {error}").format(path=path, error=str(error).splitlines()[0]),
            _("give a file that a QAT stage wrote"),
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(
            _("{path} is not a QAT checkpoint").format(path=path), _("give a file that a QAT stage wrote")
        )
    version = document.get("version")
    if type(version) is not int:
        raise _not_ours(path)
    if version > VERSION:
        raise CheckpointError(
            _("{path} was written by a newer ubq (format {version})").format(path=path, version=version),
            _("upgrade ubq"),
        )
    return document


def _assign(generator: Generator, state: Mapping[str, Tensor], parts: Sequence[str], path: Path) -> None:
    expected = {n for n in generator.state_dict() if part_of(n) in parts}
    if expected != set(state):
        odd = sorted(expected ^ set(state))
        raise CheckpointError(
            _("{path} does not fit its own sizes: {count} tensors differ, {name} first").format(
                path=path, count=len(odd), name=odd[0]
            ),
            _("run the QAT stage again"),
        )
    try:
        generator.load_state_dict(dict(state), strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            _("{path} does not fit its own sizes: {error}").format(
                path=path, error=str(error).splitlines()[-1].strip()
            ),
            _("run the QAT stage again"),
        ) from error
