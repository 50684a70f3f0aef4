"""Import of upstream's checkpoints: variant, sizes and diffusion steps are read off the tensors.

Nothing is loaded with holes: a tensor that is missing, left over, misshapen or unequal to its
duplicate is an error that names it.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ubq.errors import CheckpointError
from ubq.i18n import gettext as _
from ubq.model import GaussianDiffusion, ModelSizes, Objective, UBDiff, build_part
from ubq.model.diffusion import Variant
from ubq.model.parts import DECODERS, PARTS
from ubq.upstream.container import Container, State, read_container
from ubq.upstream.names import MAX_DEPTH, MAX_LEVELS, our_name, upstream_names
from ubq.upstream.reading import readable

Weights = Literal["ema", "raw"]

_SCHEDULE = "diffusion."
_DIM_HEAD = 32
"""Channels of an attention head of the U-Net; upstream's constant, which no tensor shows."""
_PAPER_NAMES = ("encoder.convBlock", "encoder.module_list", "fc_", "batch_norm_", "decoder_")
_FORK_NAMES = ("encoder.stage", "dual_decoder.")
_GATHER = ("sources", "seismic_samples", "receivers")


@dataclass(frozen=True)
class ImportedModel:
    """A checkpoint as ubq uses it."""

    path: Path
    container: str
    """Who wrote it and what it trains, as in ``fork diffusion``, ``paper encoder-decoder``, ``bare paper``."""
    variant: Variant
    sizes: ModelSizes
    weights_used: Weights
    """``ema`` where averaged weights were found and wanted."""
    state: dict[str, Tensor] = field(repr=False)
    """Tensors by the names of ``UBDiff.state_dict()``, float32, mapped from the file where it allows."""
    parts: tuple[str, ...]
    """Parts that the file holds, of ``ubq.model.PARTS``."""
    missing: tuple[str, ...]
    """Upstream's names of tensors that the parts in the file lack."""
    left_over: tuple[str, ...]
    """Tensors in the file that no version of UB-Diff has."""
    parameters_per_part: dict[str, int]
    suggested_normalization: Literal["fork", "openfwi"]
    """Ranges that this code base trains with (key of ``data.normalization``)."""
    step: int | None = None
    """Training step that the file names."""
    of_decoders: bool = False
    """Written while encoder and decoders were trained: a U-Net beside them may never have been."""
    fake_quantised: bool = False
    """It is a checkpoint of quantisation-aware training."""
    notes: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """Why the file cannot be used, in one line; empty when nothing is missing or left over."""
        if self.missing:
            return _("{path} lacks {names}").format(path=self.path, names=_some(self.missing))
        if self.left_over:
            return _("{path} holds tensors that UB-Diff does not have: {names}").format(
                path=self.path, names=_some(self.left_over)
            )
        return ""

    def model(self) -> UBDiff:
        """The model with these weights, in evaluation mode.

        Raises:
            CheckpointError: the file lacks a part.
        """
        require(self, PARTS)
        with torch.device("meta"):
            model = UBDiff(self.sizes)
        model.load_state_dict(self.state, strict=True, assign=True)
        return model.eval()

    def to_dict(self) -> dict[str, Any]:
        """What ``ubq checkpoint inspect --json`` prints."""
        return {
            "path": str(self.path),
            "container": self.container,
            "variant": self.variant,
            "sizes": self.sizes.to_dict(),
            "weights": self.weights_used,
            "step": self.step,
            "parts": list(self.parts),
            "absent": [part for part in PARTS if part not in self.parts],
            "parameters": {**self.parameters_per_part, "total": sum(self.parameters_per_part.values())},
            "missing": list(self.missing),
            "left_over": list(self.left_over),
            "normalization": self.suggested_normalization,
            "problem": self.problem,
            "notes": list(self.notes),
        }


class NotFiniteError(CheckpointError):
    """Weights that are not finite.

    Args:
        message: which of them.
        fix: what to do.
        sound: the set of weights that can be used instead; empty: none.
    """

    def __init__(self, message: str, fix: str, sound: Weights | Literal[""]) -> None:
        super().__init__(message, fix)
        self.sound = sound


def read_checkpoint(
    path: Path,
    weights: Weights = "ema",
    *,
    decoder_path: Path | None = None,
    need: Collection[str] = PARTS,
    sizes: Mapping[str, Any] | None = None,
) -> ImportedModel:
    """Import a checkpoint for use.

    Args:
        path: any container that upstream writes, or a bare state dict.
        weights: averaged weights where the file has them, or the raw ones.
        decoder_path: a second checkpoint whose decoders are used instead.
        need: parts that must be there.
        sizes: values for keys of ``ModelSizes`` that tensors do not show (``receivers``, ``seismic_heads``, ...).

    Raises:
        CheckpointError: the file is unreadable, holds code, lacks a needed part, has missing, left-over
            or misshapen tensors, unequal duplicates, values that are not finite, or another noise schedule than the
            cosine one.
    """
    imported = _survey_both(path, decoder_path, weights, sizes or {}, compare=True)
    if imported.problem:
        fix = _("list them all with: {command}").format(command=shlex.join(["ubq", "checkpoint", "inspect", str(path)]))
        if imported.fake_quantised and imported.missing:
            fix = _("its layers were fused for quantisation; give the float checkpoint that it was made from")
        raise CheckpointError(imported.problem, fix)
    require(imported, need)
    return imported


def inspect_checkpoint(
    path: Path,
    weights: Weights = "ema",
    *,
    decoder_path: Path | None = None,
    sizes: Mapping[str, Any] | None = None,
) -> ImportedModel:
    """Look at a checkpoint without reading its weights: what is missing or left over is listed, not refused.

    Duplicates that do not share storage are not compared.

    Raises:
        CheckpointError: as ``read_checkpoint``, but for missing and left-over tensors and parts.
    """
    return _survey_both(path, decoder_path, weights, sizes or {}, compare=False)


def require(imported: ImportedModel, need: Collection[str]) -> None:
    """Refuse a checkpoint that lacks a part.

    Raises:
        CheckpointError: names the first part that is absent, and where to find it.
    """
    absent = [part for part in PARTS if part in need and part not in imported.parts]
    if not absent:
        return
    fix = _("add the encoder-decoder checkpoint with --decoder-checkpoint")
    if "unet" in absent:
        what, fix = _("the U-Net"), _("give the diffusion checkpoint, and this one with --decoder-checkpoint")
    elif absent[0] == "encoder":
        what = _("the encoder")
    else:
        what = _("the velocity decoder") if absent[0].startswith("velocity") else _("the seismic decoder")
    raise CheckpointError(_("{path} lacks {what}").format(path=imported.path, what=what), fix)


def _survey_both(
    path: Path, decoder_path: Path | None, weights: Weights, overrides: Mapping[str, Any], compare: bool
) -> ImportedModel:
    imported = _survey(path, weights, overrides, compare)
    if decoder_path is None:
        return imported
    return _with_decoders(imported, _survey(decoder_path, weights, overrides, compare))


def _survey(path: Path, weights: Weights, overrides: Mapping[str, Any], compare: bool) -> ImportedModel:
    container = read_container(path)
    raw, left_over = _rename(container, container.model, compare)
    averaged, left_over_ema = _rename(container, container.ema, compare)
    use_ema = bool(averaged) and (weights == "ema" or not raw)
    notes = list(container.notes)
    if weights == "ema" and not averaged and not notes and "unet" in {part_of(name) for name in raw}:
        notes.append(_("no averaged weights in the file; the raw ones are used"))
    if container.fake_quantised:
        notes.append(_("a checkpoint of quantisation-aware training: its weights are used, its ranges are not"))
    tensors = dict(raw)
    if use_ema:
        _refuse_partial_averages(path, raw, averaged)
        tensors |= averaged
        left_over += left_over_ema
    if not any(part_of(name) in PARTS for name in tensors):
        raise CheckpointError(_("{path} holds no tensor of UB-Diff").format(path=path))
    variant = _variant(container)
    sizes = _sizes(path, variant, tensors, overrides)
    parts = tuple(part for part in PARTS if any(part_of(name) == part for name in tensors))
    upstream = upstream_names(variant, len(sizes.dim_mults), sizes.seismic_depth)
    missing: list[str] = []
    state: State = {}
    counts: dict[str, int] = {}
    for part in parts:
        module = _empty_part(path, sizes, part)
        counts[part] = sum(p.numel() for p in module.parameters())
        for leaf, expected in module.state_dict().items():
            name = f"{part}.{leaf}"
            if name not in tensors:
                missing.append(upstream[name][0])
                continue
            tensor = tensors.pop(name)
            _check_kind(path, upstream[name][0], tensor, expected)
            # a file that is only looked at stays mapped
            state[name] = tensor.to(expected.dtype) if compare else tensor
    _check_schedule(path, sizes, tensors)
    if compare:
        _refuse_not_finite(path, state, averaged if use_ema else raw, raw if use_ema else averaged, use_ema)
    # known names that this variant or these sizes have no place for
    left_over += [name for name in tensors if not name.startswith(_SCHEDULE)]
    return ImportedModel(
        path=path,
        container=_described(container, variant, parts),
        variant=variant,
        sizes=sizes,
        weights_used="ema" if use_ema else "raw",
        state=state,
        parts=parts,
        missing=tuple(missing),
        left_over=tuple(map(readable, left_over)),
        parameters_per_part=counts,
        suggested_normalization="fork" if variant == "fork" else "openfwi",
        step=container.step,
        of_decoders=container.of_decoders,
        fake_quantised=container.fake_quantised,
        notes=tuple(notes),
    )


def _described(container: Container, variant: Variant, parts: Collection[str]) -> str:
    if container.fake_quantised:
        return f"{variant} QAT"
    if not container.wrapped:
        return f"bare {variant}"
    if "unet" not in parts:
        return f"{variant} encoder-decoder"
    return f"{variant} fine-tune" if container.of_decoders else f"{variant} diffusion"


def _check_kind(path: Path, name: str, tensor: Tensor, expected: Tensor) -> None:
    """Refuse a tensor of another shape or another kind of numbers than the model's."""
    if tensor.shape != expected.shape:
        raise CheckpointError(
            _("{path}: {name} has shape {got}, not {wanted}").format(
                path=path, name=name, got=_shape(tensor), wanted=_shape(expected)
            )
        )
    if tensor.is_complex() or (expected.is_floating_point() and not tensor.is_floating_point()):
        raise CheckpointError(
            _("{path}: {name} holds {kind} numbers, not weights").format(
                path=path, name=name, kind=str(tensor.dtype).removeprefix("torch.")
            )
        )


def _refuse_not_finite(path: Path, used: State, chosen: State, other: State, averaged: bool) -> None:
    """Refuse weights that are infinite or no numbers.

    Args:
        path: of the file.
        used: weights that would be imported.
        chosen, other: the set of weights that was asked for, and the file's other one, which may be empty.
        averaged: the set that was asked for is that of the averages.
    """
    bad = [name for name, tensor in used.items() if not _finite(tensor)]
    if not bad:
        return
    sound = all(name in chosen and name in other and _finite(other[name]) for name in bad)
    what = _("{path}: averaged weights are not finite: {names}") if averaged and bad[0] in chosen else ""
    what = what or _("{path}: weights are not finite: {names}")
    instead: Weights = "raw" if averaged else "ema"
    raise NotFiniteError(
        what.format(path=path, names=_some(tuple(bad))),
        _(
            "the other set in the file is sound: --set pretrained.weights={weights} (ubq export: --weights {weights})"
        ).format(weights=instead)
        if sound
        else _("training had diverged when it was written: give an earlier checkpoint"),
        instead if sound else "",
    )


def _finite(tensor: Tensor) -> bool:
    """Whether every value is; takes no memory of the tensor's size."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    least, most = torch.aminmax(tensor)
    return bool(least.isfinite() & most.isfinite())


def _refuse_partial_averages(path: Path, raw: State, averaged: State) -> None:
    """Averaged and raw weights are never mixed within a part."""
    covered = {part_of(name) for name in averaged}
    for name in raw:
        if part_of(name) in covered and name not in averaged and not name.startswith(_SCHEDULE):
            raise CheckpointError(
                _("{path}: its averaged weights lack {name}").format(path=path, name=name),
                _("the weights as last trained: --set pretrained.weights=raw"),
            )


def part_of(name: str) -> str:
    """The part of the model that one of our tensor names belongs to."""
    return name.split(".", 1)[0]


def _rename(container: Container, state: State, compare: bool) -> tuple[State, list[str]]:
    """Tensors under our names, and upstream's names of those that have none."""
    ours: State = {}
    left_over: list[str] = []
    for upstream, tensor in state.items():
        name = our_name(upstream)
        if name and name.startswith("unet.") and tensor.dim() == 4 and tensor.shape[2] == 1:
            tensor = tensor.squeeze(2)  # the fork's Conv1d, rewritten as Conv2d
        if name is None:
            left_over.append(upstream)
        elif name not in ours:
            ours[name] = tensor
        elif not _same(ours[name], tensor, compare):
            raise CheckpointError(
                _("{path}: {name} differs from the tensor that it duplicates").format(
                    path=container.path, name=upstream
                )
            )
    return ours, left_over


def _same(a: Tensor, b: Tensor, compare: bool) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype:
        # NaN is unequal to itself: what is not finite is refused where the weights are read
        return a.data_ptr() == b.data_ptr() or not compare or torch.equal(a, b) or bool(torch.isnan(a).any())
    if not (a.is_floating_point() and b.is_floating_point()):
        return False
    coarse = min((a.dtype, b.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    return not compare or torch.equal(a.to(coarse), b.to(coarse))


def agrees(tensor: Tensor, expected: Tensor) -> bool:
    """Whether numbers from a file are those expected, to the precision that the file keeps.

    That is the coarsest type that holds each of them: a file may have been half precision once and be float32 now.
    """
    if tensor.shape != expected.shape:
        return False
    kinds = (torch.bfloat16, torch.float16, torch.float32)
    exact = tensor.float()
    kind = next((k for k in kinds if torch.equal(exact.to(k).float(), exact)), torch.float32)
    limits = torch.finfo(kind)
    close = torch.isclose(exact, expected, rtol=max(1e-3, 2 * limits.eps), atol=max(1e-6, limits.smallest_normal))
    # what is beyond the range of the type became infinite
    return bool((close | (exact.isinf() & (expected.abs() > limits.max))).all())


def _variant(container: Container) -> Variant:
    """The variant whose names the file uses; only the U-Net's names are in both.

    Raises:
        CheckpointError: names of both.
    """
    names = [*container.model, *container.ema]
    unet = [n for n in names if n.startswith(("unet.", "diffusion.model."))]
    paper = any(n.startswith(_PAPER_NAMES) for n in names)
    fork = any(n.startswith(_FORK_NAMES) for n in names)
    if unet:
        conditioned = any(n.endswith(".mlp.1.weight") for n in unet)
        paper, fork = paper or conditioned, fork or not conditioned
    if paper and fork:
        raise CheckpointError(
            _("{path} mixes the paper's and the fork's variant").format(path=container.path),
            _("a U-Net with time-conditioned blocks belongs to decoders named decoder_v and decoder_s"),
        )
    return "paper" if paper else "fork"


def _sizes(path: Path, variant: Variant, tensors: State, overrides: Mapping[str, Any]) -> ModelSizes:
    """Sizes that the tensors show; parts that are absent keep the defaults."""

    def shape(name: str, rank: int) -> list[int]:
        upstream = upstream_names(variant, MAX_LEVELS, MAX_DEPTH).get(name, (name,))[0]
        if name not in tensors:
            raise CheckpointError(_("{path} lacks {names}").format(path=path, names=upstream))
        dims = list(tensors[name].shape)
        if len(dims) != rank or 0 in dims:
            raise CheckpointError(
                _("{path}: {name} has the impossible shape {got}").format(
                    path=path, name=upstream, got=_shape(tensors[name])
                )
            )
        return dims

    def held(part: str) -> bool:
        return any(part_of(name) == part for name in tensors)

    sizes: dict[str, Any] = {"variant": variant}
    if held("encoder"):
        sizes["encoder_dim"] = shape("encoder.blocks.14.conv.weight", 4)[0]
        sizes["encoder_dims"] = tuple(shape(f"encoder.blocks.{i}.conv.weight", 4)[0] for i in (0, 2, 6, 10))
    for side in ("velocity", "seismic"):
        if held(f"{side}_projector"):
            width, latent = shape(f"{side}_projector.linear.weight", 2)
            sizes[f"{side}_latent"] = width
            sizes.setdefault("encoder_dim", latent)
    if held("velocity_decoder"):
        sizes["velocity_latent"] = shape("velocity_decoder.blocks.0.conv.weight", 4)[0]
        sizes["velocity_dims"] = tuple(shape(f"velocity_decoder.blocks.{i}.conv.weight", 4)[1] for i in (8, 6, 4, 2, 0))
    if held("seismic_decoder"):
        sizes |= _seismic_sizes(path, tensors, shape("seismic_decoder.output.weight", 2), overrides)
        sizes["seismic_mlp_ratio"] = shape("seismic_decoder.blocks.0.mlp.fc1.weight", 2)[0] // sizes["seismic_latent"]
    if held("unet"):
        dim = shape("unet.init_conv.weight", 3)[0]
        levels = 1 + max((int(n.split(".")[2]) for n in tensors if n.startswith("unet.downs.")), default=-1)
        widths = [shape(f"unet.downs.{i}.downsample.weight", 3)[0] for i in range(levels)]
        hidden = shape("unet.mid_attention.attention.to_qkv.weight", 3)[0] // 3 or 1
        sizes["unet_dim"] = dim
        sizes.setdefault("encoder_dim", dim)  # upstream's U-Net is as wide as its latent
        sizes["dim_mults"] = tuple(width // dim for width in widths)
        sizes["attention_dim_head"] = overrides.get("attention_dim_head", min(_DIM_HEAD, hidden))
        sizes["attention_heads"] = hidden // sizes["attention_dim_head"]
    if "diffusion.betas" in tensors:
        sizes["diffusion_steps"] = shape("diffusion.betas", 1)[0]
        sizes["objective"] = _objective(tensors)
    return ModelSizes.from_dict({**sizes, **overrides})


def _seismic_sizes(path: Path, tensors: State, output: list[int], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the seismic decoder; its last layer shows only the product of the gather's three dimensions."""
    rows, width = output
    defaults = ModelSizes()
    gather: dict[str, int] = {key: overrides.get(key, getattr(defaults, key)) for key in _GATHER}
    # what is given stays; of the rest the samples yield first, then the receivers, then the sources
    for key in ("seismic_samples", "receivers", "sources"):
        others = math.prod(value for other, value in gather.items() if other != key)
        if key not in overrides and rows % others == 0:
            gather[key] = rows // others
            break
    if math.prod(gather.values()) != rows:
        raise CheckpointError(
            _("{path}: a gather of {rows} values has no known shape").format(path=path, rows=rows),
            _("set model.seismic_samples, model.receivers and model.sources"),
        )
    depth = 1 + max((int(n.split(".")[2]) for n in tensors if n.startswith("seismic_decoder.blocks.")), default=-1)
    return {
        **gather,
        "seismic_latent": width,
        "seismic_depth": depth,
        "seismic_heads": math.gcd(width, defaults.seismic_heads),
    }


def _objective(tensors: State) -> Objective:
    """What the U-Net was trained to predict, from its loss weights; v where the file has none."""
    weight = tensors.get("diffusion.loss_weight")
    objectives: tuple[Objective, ...] = ("v", "noise", "x0")
    if weight is not None and weight.dim() == 1:
        for objective in objectives:
            ours = GaussianDiffusion(len(weight), objective).loss_weight
            if agrees(weight, ours):
                return objective
    return "v"


def _check_schedule(path: Path, sizes: ModelSizes, tensors: State) -> None:
    ours = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant).state_dict()
    for name, expected in ours.items():
        tensor = tensors.get(f"{_SCHEDULE}{name}")
        if tensor is None:
            continue
        if tensor.isnan().any():
            raise NotFiniteError(
                _("{path}: weights are not finite: {names}").format(path=path, names=f"{_SCHEDULE}{name}"),
                _("training had diverged when it was written: give an earlier checkpoint"),
                "",
            )
        if not agrees(tensor, expected):
            raise CheckpointError(
                _("{path}: {name} is not that of the cosine schedule of {steps} steps").format(
                    path=path, name=f"{_SCHEDULE}{name}", steps=sizes.diffusion_steps
                )
            )


def _empty_part(path: Path, sizes: ModelSizes, part: str) -> nn.Module:
    try:
        with torch.device("meta"):
            return build_part(sizes, part)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(
            _("{path}: its {part} has sizes that UB-Diff cannot have: {reason}").format(
                path=path, part=part, reason=error
            )
        ) from None


DECODER_SIZES = (
    "velocity_latent",
    "velocity_dims",
    "seismic_latent",
    "seismic_depth",
    "seismic_heads",
    "seismic_mlp_ratio",
    "sources",
    "seismic_samples",
    "receivers",
)


def _with_decoders(imported: ImportedModel, decoders: ImportedModel) -> ImportedModel:
    """The first checkpoint with the second's decoders, and its encoder where the first has none."""
    if decoders.variant != imported.variant:
        raise CheckpointError(
            _("{a} is the {va} variant, {b} the {vb} variant").format(
                a=imported.path, va=imported.variant, b=decoders.path, vb=decoders.variant
            )
        )
    if decoders.sizes.encoder_dim != imported.sizes.encoder_dim:
        raise CheckpointError(
            _("{a} has latents of {la} values, {b} of {lb}").format(
                a=imported.path, la=imported.sizes.encoder_dim, b=decoders.path, lb=decoders.sizes.encoder_dim
            )
        )
    taken = [p for p in decoders.parts if p in DECODERS or p not in imported.parts]
    replaced = {n: t for n, t in decoders.state.items() if part_of(n) in taken}
    remaining = {n: t for n, t in imported.state.items() if part_of(n) not in taken}
    sizes = {key: getattr(decoders.sizes, key) for key in DECODER_SIZES}
    if "encoder" in taken:
        sizes["encoder_dims"] = decoders.sizes.encoder_dims
    parts = tuple(p for p in PARTS if p in taken or p in imported.parts)
    counts = imported.parameters_per_part | {p: decoders.parameters_per_part[p] for p in taken}
    return dataclasses.replace(
        imported,
        sizes=dataclasses.replace(imported.sizes, **sizes),
        fake_quantised=imported.fake_quantised or decoders.fake_quantised,
        state={**remaining, **replaced},
        parts=parts,
        missing=imported.missing + decoders.missing,
        left_over=imported.left_over + decoders.left_over,
        parameters_per_part={p: counts[p] for p in parts},
        notes=(*imported.notes, _("decoders from {path}").format(path=decoders.path)),
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "1"


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else _("{names} and {count} more").format(names=shown, count=len(names) - 3)
