"""The folder ``exported_models``: the model file and everything that travels with it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ubq import __version__
from ubq.acquisition import acquisition_for
from ubq.data.families import VELOCITY_SHAPE
from ubq.durable import write_atomic
from ubq.export.formats import remove_other_formats, require_formats, write_other_formats
from ubq.export.guide import GUIDE, guide_text, info_text
from ubq.export.lower.torchscript import write_torchscript
from ubq.export.manifest import sha256, write_manifest
from ubq.export.readback.digest import digest
from ubq.export.runtimes import TORCHSCRIPT
from ubq.quant.generator import Generator, Recipe, shared_copy
from ubq.quant.layers import QConv2d
from ubq.quant.phases import quant_layers
from ubq.quant.solver import offered_steps
from ubq.runtime.facts import Facts


@dataclass(frozen=True)
class ExportedFiles:
    """What ``export_generator`` wrote."""

    model: Path
    manifest: Path
    others: tuple[Path, ...]
    facts: Facts
    weights_sha256: str | None


def export_generator(
    generator: Generator,
    recipe: Recipe,
    folder: Path,
    name: str,
    *,
    family: str,
    quantise: bool = True,
    formats: Collection[str] = (TORCHSCRIPT.name,),
) -> ExportedFiles:
    """Write ``<name>.pt``, further formats, ``<name>_info.txt``, ``deployment_guide.md`` and ``manifest.json``.

    Args:
        generator: calibrated; it stays as it is.
        recipe: that it was built from.
        folder: made when missing.
        name: of the files.
        family: OpenFWI data set that the model imitates.
        quantise: False writes the same weights in float32, without fake quantisation, as TorchScript only.
        formats: of the files to write, as in ``export.formats``.

    Raises:
        UsageError: this PyTorch lacks ``recipe.quant.backend``, or a format's packages are not installed.
        ValueError: a layer was never calibrated.
    """
    formats = formats if quantise else (TORCHSCRIPT.name,)
    require_formats(formats)
    folder.mkdir(parents=True, exist_ok=True)
    facts = facts_of(recipe, name, family, quantise)
    model = folder / f"{name}.pt"
    remove_other_formats(model, formats)
    source = generator if quantise else without_quantisation(generator)
    time_tables, facts_json = recipe.quant.time_tables, json.dumps(facts.to_json())
    write_torchscript(source, model, recipe.quant.backend, time_tables, facts=facts_json)
    weights = digest(model) if quantise else None
    other_formats = write_other_formats(generator, model, formats, time_tables, facts_json, weights) if weights else []
    size = model.stat().st_size
    info, guide = folder / f"{name}_info.txt", folder / GUIDE
    write_atomic(info, info_text(facts, size, sha256(model), weights, [f.name for f in other_formats]).encode())
    write_atomic(guide, guide_text(facts, size, [f.name for f in other_formats]).encode())
    others = (*other_formats, info, guide)
    return ExportedFiles(model, write_manifest(folder, facts, (model, *others), weights), others, facts, weights)


def facts_of(recipe: Recipe, name: str, family: str, quantised: bool) -> Facts:
    """The facts of a recipe."""
    sizes = recipe.sizes
    offered = offered_steps(recipe.export, sizes.diffusion_steps)
    seismic_shape = (sizes.sources, sizes.seismic_samples, sizes.receivers)
    acquisition = acquisition_for(VELOCITY_SHAPE, seismic_shape)
    return Facts(
        name=name,
        family=family,
        quantised=quantised,
        backend=recipe.quant.backend,
        solver=recipe.export.sampler,
        steps=offered[0],
        step_counts=tuple(sorted(offered)),
        model=sizes.to_dict(),
        normalization=recipe.normalization.to_dict(),
        velocity_shape=VELOCITY_SHAPE,
        seismic_shape=seismic_shape,
        versions={"ubq": __version__, "torch": str(torch.__version__)},
        acquisition=asdict(acquisition) if acquisition else None,
        distilled=recipe.distilled,
    )


def without_quantisation(generator: Generator) -> Generator:
    """A copy, sharing the weights, whose fake-quantised layers are plain float layers."""
    plain = shared_copy(generator)
    for name, layer in quant_layers(plain).items():
        out_features, in_features = layer.weight.shape[:2]
        with torch.device("meta"):  # no memory for weights that are replaced at once
            if isinstance(layer, QConv2d):
                kernel: Sequence[int] = layer.weight.shape[2:]
                new: nn.Conv2d | nn.Linear = nn.Conv2d(
                    in_features * layer.groups, out_features, (kernel[0], kernel[1]), layer.stride,
                    layer.padding, layer.dilation, layer.groups, bias=layer.bias is not None,
                )  # fmt: skip
            else:
                new = nn.Linear(in_features, out_features, bias=layer.bias is not None)
        new.weight = layer.weight
        new.bias = layer.bias
        plain.set_submodule(name, new)
    return plain.eval()
