"""Lowering to ExecuTorch: one program whose weight layers all run in XNNPACK.

The program has a method for one U-Net step, one for the decoders, and two constants, the facts and the
sampler's tables; ``ubq.runtime`` runs the solver's loop around them. Every method takes one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ubq.durable import replacing
from ubq.export.lower.integer import IntegerLayer
from ubq.export.lower.qdq import Decoders, Dialect, DynamicLinear, Step, lowered, tables
from ubq.export.lower.quiet import quiet
from ubq.model.unet import RMSNorm
from ubq.quant.generator import Generator
from ubq.runtime.executorch import DECODERS_METHOD, FACTS_METHOD, TABLES_METHOD, UNET_METHOD

_Q = torch.ops.quantized_decomposed
_SMALLEST_SCALE = 2.0**-24


class XnnpackDynamicLinear(DynamicLinear):
    """The input quantised by the range of each call; XNNPACK computes it as one integer product."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        limits = (-128, 127)
        scale, zero_point = _Q.choose_qparams.tensor(x, *limits, _SMALLEST_SCALE, torch.int8)
        levels = _Q.quantize_per_tensor.tensor(x, scale, zero_point, *limits, torch.int8)
        rows = _Q.dequantize_per_tensor.tensor(levels, scale, zero_point, *limits, torch.int8)
        return F.linear(rows, self.dequantised_weight(), self.bias)


DIALECT = Dialect(signed=True, integer_bias=False, dynamic_linear=XnnpackDynamicLinear)


class WholeNorm(RMSNorm):
    """RMSNorm as one norm along the channels, which XNNPACK leaves alone.

    Of its square, sum and root XNNPACK would take a part and hand the result on in another layout than the program
    expects: "Attempted to resize a static tensor" (executorch 1.0.1, 1.1.0 and 1.5.1).
    """

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__(norm.g.shape[1])
        self.g = norm.g

    def to_unit(self, x: Tensor) -> Tensor:
        """(B, C, ..., L) -> the same shape."""
        return F.normalize(x, dim=1)


def write_executorch(
    generator: Generator,
    path: Path,
    time_tables: bool,
    facts: str,
    layers: Mapping[str, IntegerLayer] | None = None,
) -> Any:
    """Write ``path``; it appears whole or not at all.

    Args:
        generator: fake-quantised and calibrated; it stays as it is.
        path: ``NAME.pte``.
        time_tables: replace the time MLPs by tables over the sampler's steps.
        facts: JSON kept inside the file.
        layers: the generator's integers where they are at hand already.

    Returns:
        The ``EdgeProgramManager``: what was delegated to XNNPACK can be read off it.
    """
    new = lowered(generator, time_tables, DIALECT, layers)
    for name, norm in [(n, m) for n, m in new.named_modules() if isinstance(m, RMSNorm)]:
        new.set_submodule(name, WholeNorm(norm))
    x, time = torch.zeros(1, 1, generator.latent_length), generator.sampler.times[:1].clone()
    texts = {FACTS_METHOD: facts, TABLES_METHOD: tables(generator).to_json()}
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(
            {
                UNET_METHOD: torch.export.export(Step(new), (x, time), strict=False),
                DECODERS_METHOD: torch.export.export(Decoders(new), (x,), strict=False),
            },
            partitioner=[XnnpackPartitioner()],
            constant_methods={name: _bytes(text) for name, text in texts.items()},
        )
        program = edge.to_executorch()
    with replacing(path) as temporary, temporary.open("wb") as file:
        program.write_to_file(file)
    return edge


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
