"""Names of upstream's tensors and ours: the one place that knows how the two code bases name things.

An upstream name maps to exactly one name of ours; upstream stores some tensors twice
(``encoder.module_list*``, ``diffusion.model.*``), so several of its names may map to one of ours.
Ours are those of ``UBDiff.state_dict()``, with ``diffusion.<buffer>`` for the schedule's arrays.
"""

from __future__ import annotations

import re

# Schedule buffers stay as they are; everything else below ``diffusion.`` is upstream's second U-Net.
_BLOCK = r"(?P<rest>(?:weight|bias|running_mean|running_var|num_batches_tracked))"
_CONV_LAYERS = {"0": "conv", "1": "norm"}

_ENCODER = (
    re.compile(rf"encoder\.(?:stage|module_list)(?P<stage>[12])\.(?P<index>\d+)\.layers\.(?P<layer>[01])\.{_BLOCK}"),
    re.compile(rf"encoder\.convBlock(?P<pair>\d+)(?:_(?P<half>[12]))?\.layers\.(?P<layer>[01])\.{_BLOCK}"),
)
_FIRST_STAGE = 10
"""Blocks in the encoder's first stage."""
_VELOCITY = (
    re.compile(
        r"dual_decoder\.velocity_decoder\.(?:blocks\.(?P<index>\d+)|output_layer)"
        rf"\.layers\.(?P<layer>[01])\.{_BLOCK}"
    ),
    re.compile(rf"decoder_v\.deconvBlock(?P<pair>\d+)(?:_(?P<half>[12]))?\.layers\.(?P<layer>[01])\.{_BLOCK}"),
)
_PROJECTOR = (
    re.compile(rf"dual_decoder\.(?P<which>velocity|seismic)_projector\.(?P<layer>fc|batch_norm)\.{_BLOCK}"),
    re.compile(rf"(?P<layer>fc|batch_norm)_(?P<which>[vs])\.{_BLOCK}"),
)
_SEISMIC = re.compile(r"(?:dual_decoder\.seismic_decoder|decoder_s)\.(?P<rest>.+)")
_SEISMIC_PARTS = (
    (re.compile(r"decoder\.cls_token"), "cls_token"),
    (re.compile(r"decoder\.pos_embed"), "position"),
    (re.compile(r"decoder\.patch_embed\.proj\.(weight|bias)"), r"patch.\1"),
    (re.compile(r"decoder\.blocks\.(\d+)\.(norm1|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"decoder\.blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)"), r"blocks.\1.attention.\2.\3"),
    (re.compile(r"decoder\.norm\.(weight|bias)"), r"norm.\1"),
    (re.compile(r"decoder\.head\.(weight|bias)"), r"unused_head.\1"),
    (re.compile(r"mlp\.(weight|bias)"), r"output.\1"),
)
_UNET = re.compile(r"(?:unet|diffusion\.model)\.(?P<rest>.+)")
_UNET_PLACES = (
    (re.compile(r"(downs|ups)\.(\d+)\.([01])\.(.+)"), lambda m: f"{m[1]}.{m[2]}.block{int(m[3]) + 1}.", 4),
    (re.compile(r"(downs|ups)\.(\d+)\.2\.fn\.(fn|norm)\.(.+)"), lambda m: f"{m[1]}.{m[2]}.attention.{_attn(m[3])}.", 4),
    (re.compile(r"mid_attn\.fn\.(fn|norm)\.(.+)"), lambda m: f"mid_attention.{_attn(m[1])}.", 2),
    (re.compile(r"downs\.(\d+)\.3\.(weight|bias)"), lambda m: f"downs.{m[1]}.downsample.", 2),
    (re.compile(r"ups\.(\d+)\.3\.(?:1\.)?(weight|bias)"), lambda m: f"ups.{m[1]}.conv.", 2),
    (re.compile(r"(mid_block1|mid_block2)\.(.+)"), lambda m: f"{m[1]}.", 2),
    (re.compile(r"final_res_block\.(.+)"), lambda m: "final_block.", 1),
    (re.compile(r"((?:init_conv|time_mlp\.[13]|final_conv)\.(?:weight|bias))"), lambda m: "", 1),
)
_UNET_LEAVES = (
    (re.compile(r"block([12])\.proj\.(weight|bias)"), r"conv\1.\2"),
    (re.compile(r"block([12])\.norm\.(weight|bias)"), r"norm\1.\2"),
    (re.compile(r"res_conv\.(weight|bias)"), r"shortcut.\1"),
    (re.compile(r"to_out\.0\.(weight|bias)"), r"to_out.\1"),
    (re.compile(r"to_out\.1\.g"), "out_norm.g"),
)
_BUFFER = re.compile(r"diffusion\.\w+")


def our_name(upstream: str) -> str | None:
    """Our name of an upstream tensor; None for a tensor that no version of UB-Diff has."""
    if _BUFFER.fullmatch(upstream):
        return upstream
    for convert in (_encoder_name, _velocity_name, _projector_name, _seismic_name, _unet_name):
        if name := convert(upstream):
            return name
    return None


def _attn(word: str) -> str:
    return "attention" if word == "fn" else "norm"


def _encoder_name(name: str) -> str | None:
    if m := _ENCODER[0].fullmatch(name):
        index = int(m["index"]) + (_FIRST_STAGE if m["stage"] == "2" else 0)
    elif m := _ENCODER[1].fullmatch(name):
        index = 2 * (int(m["pair"]) - 1) + (m["half"] == "2")
    else:
        return None
    return f"encoder.blocks.{index}.{_CONV_LAYERS[m['layer']]}.{m['rest']}"


def _velocity_name(name: str) -> str | None:
    if m := _VELOCITY[0].fullmatch(name):
        place = "output" if m["index"] is None else f"blocks.{m['index']}"
    elif m := _VELOCITY[1].fullmatch(name):
        # the last block stands alone
        place = "output" if m["half"] is None else f"blocks.{2 * (int(m['pair']) - 1) + int(m['half']) - 1}"
    else:
        return None
    return f"velocity_decoder.{place}.{_CONV_LAYERS[m['layer']]}.{m['rest']}"


def _projector_name(name: str) -> str | None:
    for pattern in _PROJECTOR:
        if m := pattern.fullmatch(name):
            which = "velocity" if m["which"].startswith("v") else "seismic"
            return f"{which}_projector.{'linear' if m['layer'] == 'fc' else 'norm'}.{m['rest']}"
    return None


def _seismic_name(name: str) -> str | None:
    if m := _SEISMIC.fullmatch(name):
        for pattern, ours in _SEISMIC_PARTS:
            if part := pattern.fullmatch(m["rest"]):
                return f"seismic_decoder.{part.expand(ours)}"
    return None


def _unet_name(name: str) -> str | None:
    if m := _UNET.fullmatch(name):
        for pattern, place, rest in _UNET_PLACES:
            if found := pattern.fullmatch(m["rest"]):
                leaf = found[rest]
                for leaf_pattern, ours in _UNET_LEAVES:
                    if part := leaf_pattern.fullmatch(leaf):
                        leaf = part.expand(ours)
                return f"unet.{place(found)}{leaf}"
    return None
