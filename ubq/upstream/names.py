"""Names of upstream's tensors and ours: the one place that knows how the two code bases name things.

Ours are those of ``UBDiff.state_dict()``, with ``diffusion.<buffer>`` for the schedule's arrays.
Upstream stores some tensors twice (``encoder.module_list*``, ``diffusion.model.*``), so several of
its names may belong to one of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from ubq.model import GaussianDiffusion
from ubq.model.diffusion import Variant

MAX_LEVELS = 8
"""U-Net levels that are looked for in a checkpoint."""
MAX_DEPTH = 24
"""Transformer blocks that are looked for in a checkpoint."""

_LAYER = ("weight", "bias")
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_ENCODER_BLOCKS = 15
_ENCODER_FIRST_STAGE = 10
_VELOCITY_BLOCKS = 10

AVERAGED = "ema_model."
"""What leads the canonical name of an averaged weight that stands beside the raw ones."""
_WRAPPERS = frozenset(
    ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "conv2d")
)
"""Modules around a module that add nothing to it: of parallel and compiled training, and the fork's Conv1d as Conv2d.
No tensor of UB-Diff has one of them in its own name."""
_OBSERVERS = ("activation_post_process", "weight_fake_quant", "bias_fake_quant", "fake_quant", "observer")
_BARE_DECODERS = ("velocity_projector.", "velocity_decoder.", "seismic_projector.", "seismic_decoder.")
_MOST_ROOTS = 4
"""Attributes of a trainer that may lead to the model, as ``model.`` of a Lightning module."""
_ROOTS = frozenset(("model", "net", "network", "denoiser"))
"""Those of them that may lead to a U-Net alone."""

Pair = tuple[str, str]
"""(our name, upstream's name)."""


@cache
def upstream_names(variant: Variant, levels: int, depth: int) -> dict[str, tuple[str, ...]]:
    """Every tensor of a model with so many U-Net levels and transformer blocks: our name -> upstream's names."""
    names: dict[str, tuple[str, ...]] = {}
    for ours, upstream in _pairs(variant, levels, depth):
        names[ours] = (*names.get(ours, ()), upstream)
    return names


def our_name(upstream: str) -> str | None:
    """Our name of an upstream tensor; None for a tensor that no version of UB-Diff has."""
    return _our_names().get(upstream)


def canonical(name: str) -> str | None:
    """Upstream's own name of a tensor, without what wrapped the model while it was trained.

    Wrappers may stand anywhere in a name, in any order. A name that no version of UB-Diff has is returned without
    them; None stands for a buffer of fake quantisation.
    """
    parts = name.split(".")
    if any(part.startswith(_OBSERVERS) for part in parts):
        return None
    parts = [part for part in parts if part not in _WRAPPERS]
    averaged = bool(parts) and f"{parts[0]}." == AVERAGED
    if averaged or parts[:1] == ["online_model"]:
        parts = parts[1:]
    upstream_name = None
    for skip in range(min(_MOST_ROOTS, len(parts))):
        if upstream_name := _own(".".join(parts[skip:]), alone=set(parts[:skip]) <= _ROOTS):
            break
    return (AVERAGED if averaged else "") + (upstream_name or ".".join(parts))


def _own(name: str, alone: bool) -> str | None:
    """Upstream's name of a tensor whose name may lack that of its part, or be that of a fused convolution.

    Args:
        name: without wrappers.
        alone: it may be that of a U-Net alone, whose names say little.
    """
    whole = name.replace(".layers.0.bn.", ".layers.1.")
    candidates = [name, whole]
    if whole.startswith(_BARE_DECODERS):
        candidates.append(f"dual_decoder.{whole}")
    if alone:
        candidates.append(f"unet.{name}")
    return next((n for n in candidates if n in _our_names()), None)


@cache
def _our_names() -> dict[str, str]:
    variants: tuple[Variant, ...] = ("paper", "fork")
    return {
        upstream: ours
        for variant in variants
        for levels in range(1, MAX_LEVELS + 1)
        for ours, upstream in _pairs(variant, levels, MAX_DEPTH)
    }


def _pairs(variant: Variant, levels: int, depth: int) -> Iterator[Pair]:
    paper = variant == "paper"
    yield from _encoder(paper)
    yield from _velocity(paper)
    for side in ("velocity", "seismic"):
        linear, norm = (
            (f"fc_{side[0]}", f"batch_norm_{side[0]}")
            if paper
            else (f"dual_decoder.{side}_projector.fc", f"dual_decoder.{side}_projector.batch_norm")
        )
        yield from _leaves(f"{side}_projector.linear", linear, _LAYER)
        yield from _leaves(f"{side}_projector.norm", norm, _BATCH_NORM)
    yield from _seismic("decoder_s" if paper else "dual_decoder.seismic_decoder", depth)
    for ours, upstream in _unet(paper, levels):
        yield f"unet.{ours}", f"unet.{upstream}"
        yield f"unet.{ours}", f"diffusion.model.{upstream}"
    for buffer in GaussianDiffusion(2, variant=variant).state_dict():
        yield f"diffusion.{buffer}", f"diffusion.{buffer}"


def _leaves(ours: str, upstream: str, leaves: tuple[str, ...]) -> Iterator[Pair]:
    for leaf in leaves:
        yield f"{ours}.{leaf}", f"{upstream}.{leaf}"


def _conv_block(ours: str, upstream: str) -> Iterator[Pair]:
    yield from _leaves(f"{ours}.conv", f"{upstream}.layers.0", _LAYER)
    yield from _leaves(f"{ours}.norm", f"{upstream}.layers.1", _BATCH_NORM)


def _encoder(paper: bool) -> Iterator[Pair]:
    for i in range(_ENCODER_BLOCKS):
        ours = f"encoder.blocks.{i}"
        stage, index = (1, i) if i < _ENCODER_FIRST_STAGE else (2, i - _ENCODER_FIRST_STAGE)
        if not paper:
            yield from _conv_block(ours, f"encoder.stage{stage}.{index}")
            continue
        last = i == _ENCODER_BLOCKS - 1
        yield from _conv_block(ours, f"encoder.convBlock{i // 2 + 1}" + ("" if last else f"_{i % 2 + 1}"))
        yield from _conv_block(ours, f"encoder.module_list{stage}.{index}")


def _velocity(paper: bool) -> Iterator[Pair]:
    for i in range(_VELOCITY_BLOCKS):
        upstream = (
            f"decoder_v.deconvBlock{i // 2 + 1}_{i % 2 + 1}" if paper else f"dual_decoder.velocity_decoder.blocks.{i}"
        )
        yield from _conv_block(f"velocity_decoder.blocks.{i}", upstream)
    yield from _conv_block(
        "velocity_decoder.output", "decoder_v.deconvBlock6" if paper else "dual_decoder.velocity_decoder.output_layer"
    )


def _seismic(root: str, depth: int) -> Iterator[Pair]:
    ours = "seismic_decoder"
    yield f"{ours}.cls_token", f"{root}.decoder.cls_token"
    yield f"{ours}.position", f"{root}.decoder.pos_embed"
    yield from _leaves(f"{ours}.patch", f"{root}.decoder.patch_embed.proj", _LAYER)
    for i in range(depth):
        for layer, upstream in (
            ("norm1", "norm1"),
            ("attention.qkv", "attn.qkv"),
            ("attention.proj", "attn.proj"),
            ("norm2", "norm2"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            yield from _leaves(f"{ours}.blocks.{i}.{layer}", f"{root}.decoder.blocks.{i}.{upstream}", _LAYER)
    yield from _leaves(f"{ours}.norm", f"{root}.decoder.norm", _LAYER)
    yield from _leaves(f"{ours}.unused_head", f"{root}.decoder.head", _LAYER)
    yield from _leaves(f"{ours}.output", f"{root}.mlp", _LAYER)


def _unet(paper: bool, levels: int) -> Iterator[Pair]:
    yield from _leaves("init_conv", "init_conv", _LAYER)
    yield from _leaves("time_mlp.1", "time_mlp.1", _LAYER)
    yield from _leaves("time_mlp.3", "time_mlp.3", _LAYER)
    for i in range(levels):
        last = i == levels - 1
        for way in ("downs", "ups"):
            # the way up takes skips and always changes its width, so it has the shortcut convolution
            yield from _block(f"{way}.{i}.block1", f"{way}.{i}.0", paper, shortcut=way == "ups")
            yield from _block(f"{way}.{i}.block2", f"{way}.{i}.1", paper, shortcut=way == "ups")
            yield from _attention(f"{way}.{i}.attention", f"{way}.{i}.2", paper, linear=True)
        yield from _leaves(f"downs.{i}.downsample", f"downs.{i}.3", _LAYER)
        yield from _leaves(f"ups.{i}.conv", f"ups.{i}.3" if last else f"ups.{i}.3.1", _LAYER)
    yield from _block("mid_block1", "mid_block1", paper, shortcut=False)
    yield from _attention("mid_attention", "mid_attn", paper, linear=False)
    yield from _block("mid_block2", "mid_block2", paper, shortcut=False)
    yield from _block("final_block", "final_res_block", paper, shortcut=True)
    yield from _leaves("final_conv", "final_conv", _LAYER)


def _block(ours: str, upstream: str, paper: bool, shortcut: bool) -> Iterator[Pair]:
    if paper:
        yield from _leaves(f"{ours}.mlp.1", f"{upstream}.mlp.1", _LAYER)
    for i in (1, 2):
        yield from _leaves(f"{ours}.conv{i}", f"{upstream}.block{i}.proj", _LAYER)
        yield from _leaves(f"{ours}.norm{i}", f"{upstream}.block{i}.norm", _LAYER)
    if shortcut:
        yield from _leaves(f"{ours}.shortcut", f"{upstream}.res_conv", _LAYER)


def _attention(ours: str, upstream: str, paper: bool, linear: bool) -> Iterator[Pair]:
    yield f"{ours}.attention.to_qkv.weight", f"{upstream}.fn.fn.to_qkv.weight"
    yield from _leaves(f"{ours}.attention.to_out", f"{upstream}.fn.fn.to_out" + (".0" if linear else ""), _LAYER)
    if linear:
        yield f"{ours}.attention.out_norm.g", f"{upstream}.fn.fn.to_out.1.g"
    yield from _leaves(f"{ours}.norm", f"{upstream}.fn.norm", ("g",) if paper else _LAYER)
