"""Lowering to ONNX: two graphs of quantise-dequantise (QDQ) groups, which ONNX Runtime fuses to integer kernels.

``NAME.onnx`` is one U-Net step and carries the facts and the sampler's tables; ``NAME.decoders.onnx``
turns latents into pairs. ``ubq.runtime`` runs the solver's loop around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ubq.durable import replacing
from ubq.export.lower.integer import IntegerLayer
from ubq.export.lower.qdq import Decoders, Dialect, DynamicLinear, Step, lowered, tables
from ubq.export.lower.quiet import quiet
from ubq.quant.generator import Generator
from ubq.runtime.facts import FACTS
from ubq.runtime.generator import TABLES
from ubq.runtime.onnx import WEIGHTS, decoders_file

OPSET = 20


class OnnxDynamicLinear(DynamicLinear):
    """The input quantised by ``DynamicQuantizeLinear``, the product summed in int32 by ``MatMulInteger``."""

    def __init__(self, layer: IntegerLayer) -> None:
        super().__init__(layer)
        self.register_buffer("weight", layer.weight.t().contiguous())  # (I, O), as the operator wants it

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        levels, scale, zero_point = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            (x,),
            dtypes=(torch.uint8, torch.float32, torch.uint8),
            shapes=(x.shape, (), ()),
            version=OPSET,
        )
        total = torch.onnx.ops.symbolic(
            "MatMulInteger",
            (levels, self.weight, zero_point),
            dtype=torch.int32,
            shape=(x.shape[0], self.weight.shape[1]),
            version=OPSET,
        )
        return total.float() * (scale * self.scales) + self.bias


DIALECT = Dialect(signed=False, integer_bias=True, dynamic_linear=OnnxDynamicLinear)


def write_onnx(
    generator: Generator,
    path: Path,
    time_tables: bool,
    facts: str,
    weights_sha256: str,
    layers: Mapping[str, IntegerLayer] | None = None,
) -> tuple[Path, Path]:
    """Write ``path`` and the decoders beside it.

    Args:
        generator: fake-quantised and calibrated; it stays as it is.
        path: ``NAME.onnx``.
        time_tables: replace the time MLPs by tables over the sampler's steps.
        facts: JSON kept inside the first file.
        weights_sha256: of the integers; both files carry it, so that files of two exports are not mixed.
        layers: the generator's integers where they are at hand already.

    Returns:
        Both files; each appears whole or not at all.
    """
    new = lowered(generator, time_tables, DIALECT, layers)
    batch = torch.export.Dim("batch")
    # two of everything: a batch of one would be taken for a constant
    x, time = torch.zeros(2, 1, generator.latent_length), generator.sampler.times[:1].repeat(2)
    marks = {WEIGHTS: weights_sha256}
    write_graph(
        Step(new), {"x": x, "time": time}, ["prediction"], batch, path,
        marks | {FACTS: facts, TABLES: tables(generator).to_json()},
    )  # fmt: skip
    beside = decoders_file(path)
    write_graph(Decoders(new), {"latent": x}, ["velocity", "seismic"], batch, beside, marks)
    return path, beside


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: list[str],
    batch: torch.export.Dim,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write one graph whose inputs and outputs all have a free batch dimension.

    Args:
        module: of quantise-dequantise layers.
        inputs: examples by name, of a batch of two.
        outputs: names.
        batch: the free dimension.
        path: of the file; it appears whole or not at all.
        metadata: entries of the file.
    """
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces with the paths of this machine
        own_zero_points(program.model.graph)
        program.model.metadata_props.update(metadata)
        with replacing(path) as temporary:
            program.save(str(temporary))


def own_zero_points(graph: Any) -> None:
    """Give every int8 weight of a graph (``onnx_ir``) zero points that are no other one's.

    The exporter shares equal ones. Where ONNX Runtime rewrites weights as uint8 (``ubq.runtime.onnx.PRECISE``) it names
    the new zero points after the old, and refuses a name that is there already.
    """
    import onnx_ir

    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        weight, shared = node.inputs[0], node.inputs[2]
        if shared.dtype == onnx_ir.DataType.INT8 and weight.is_initializer() and len(shared.uses()) > 1:
            own = onnx_ir.Value(
                name=f"{weight.name}.zero_points", shape=shared.shape, type=shared.type,
                const_value=onnx_ir.Tensor(shared.const_value.numpy(), name=f"{weight.name}.zero_points"),
            )  # fmt: skip
            graph.register_initializer(own)
            node.replace_input_with(2, own)
