"""``weights_sha256``: one hash over everything that an exported file's integer layers compute with.

For each quantised layer, in the order of their names (by code point), these bytes, little endian:

1. the int8 weight, C order (O, I) or (O, I, KH, KW);
2. the float32 scales, (O,) or, for per-tensor weights, (1,);
3. the int64 zero points, as many;
4. the float32 bias, (O,);
5. the activations' scale (float32) and zero point (int64): the input's, then the output's. A layer
   that chooses its input's grid at every call and returns floats (``linear_dynamic``) has none.

All of it is read from the TorchScript file alone: modules that hold ``packed`` weights, and their
``input_scale``, ``input_zero_point``, ``output_scale``, ``output_zero_point``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ubq.errors import UsageError
from ubq.export.lower.integer import IntegerLayer
from ubq.i18n import gettext as _


def digest_layers(layers: Iterable[IntegerLayer]) -> str:
    """The hash of an integer model, hexadecimal."""
    sha = hashlib.sha256()
    for layer in sorted(layers, key=lambda layer: layer.name):
        grids = [(g.scale, g.zero_point) for g in (layer.input, layer.output) if g is not None]
        _update(sha, layer.weight, layer.scales, layer.zero_points, layer.bias, grids)
    return sha.hexdigest()


def digest_module(module: torch.jit.ScriptModule) -> str:
    """The hash of a loaded TorchScript generator, hexadecimal."""
    sha = hashlib.sha256()
    for _name, layer in sorted((n, m) for n, m in module.named_modules() if hasattr(m, "packed")):
        weight, bias = layer.packed.unpack()
        if weight.qscheme() == torch.per_channel_affine:
            scales, zero_points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
        else:
            scales, zero_points = torch.tensor([weight.q_scale()]), torch.tensor([weight.q_zero_point()])
        grids = []
        if hasattr(layer, "input_scale"):
            grids = [(layer.input_scale, layer.input_zero_point), (layer.output_scale, layer.output_zero_point)]
        _update(sha, weight.int_repr(), scales, zero_points, bias, grids)
    return sha.hexdigest()


def digest(path: Path) -> str:
    """The hash of a TorchScript file, hexadecimal.

    Raises:
        UsageError: not a TorchScript file.
    """
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            _("{path} is not a TorchScript file").format(path=path), _("give the .pt of exported_models")
        ) from error
    return digest_module(module)


def _update(
    sha: hashlib._Hash,
    weight: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    bias: Tensor,
    grids: list[tuple[float, int]],
) -> None:
    arrays = [(weight, "i1"), (scales, "<f4"), (zero_points, "<i8"), (bias, "<f4")]
    for tensor, dtype in arrays:
        sha.update(np.ascontiguousarray(tensor.detach().numpy(), dtype=np.dtype(dtype)).tobytes())
    for scale, zero_point in grids:
        sha.update(np.array(scale, dtype="<f4").tobytes() + np.array(zero_point, dtype="<i8").tobytes())
