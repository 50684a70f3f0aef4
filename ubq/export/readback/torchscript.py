"""Reading an exported TorchScript file: what its graph computes in int8, without any knowledge of how it was made.

The graph of ``forward`` is inlined and cleared of dead code; what is left is what runs. Sizes of the
activations come from one profiled run, since a graph has no shapes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler_legacy import profile

from ubq.quant.analysis import Coverage, LayerReport, is_conv1d, tally
from ubq.quant.generator import part_of

LARGE = 4096
"""Float constants of more bytes than this are listed."""
QUANTISED_OPS = {
    "quantized::conv2d": "Conv2d",
    "quantized::linear": "Linear",
    "quantized::linear_dynamic": "LinearDynamic",
}
FLOAT_OPS = {
    "aten::conv1d": "Conv1d",
    "aten::conv2d": "Conv2d",
    "aten::conv_transpose2d": "ConvTranspose2d",
    "aten::linear": "Linear",
}


@dataclass(frozen=True)
class _Op:
    """One weight operator of the graph; ``geometry`` is stride, padding, dilation of a convolution."""

    kind: str
    layer: str
    weight: Tensor
    geometry: tuple[list[int], list[int], list[int]] | None


def count_file(module: torch.jit.ScriptModule) -> Coverage:
    """Count a loaded generator as ``ubq.quant.analysis.count_model`` counts a model.

    The file runs once, so call it inside the engine that it was loaded under.
    """
    graph = _live_graph(module)
    ops = _weight_ops(module, graph)
    step = [op for op in ops if part_of(op.layer) == "diffusion"]
    decoders = [op for op in ops if part_of(op.layer) != "diffusion"]
    latent = torch.zeros(1, 1, module.latent_length)
    time = module.sampler.times[:1]
    with torch.no_grad():
        unet_macs, unet_products = _profiled(lambda: module.unet(latent, time), step)
        decoder_macs, decoder_products = _profiled(lambda: module.decode_normalised(latent), decoders)
    macs = {**unet_macs, **decoder_macs}
    layers: dict[str, LayerReport] = {}
    for name, kind in _executed_leaves(module).items():
        tensors = [t for t in _attribute(module, name).state_dict().values() if isinstance(t, torch.Tensor)]
        layers[name] = LayerReport(name, kind, sum(t.numel() for t in tensors), 0, False, False, False, _NO_WEIGHT)
    for op in ops:
        quantised = op.kind in QUANTISED_OPS
        layers[op.layer] = LayerReport(
            name=op.layer,
            type=op.kind,
            parameters=op.weight.numel(),
            macs=macs[op.layer],
            weighted=True,
            conv1d=is_conv1d(op.layer, op.weight.dim()),
            quantised=quantised,
            reason="" if quantised else "a float operator",
        )
    return tally(layers, unet_products + decoder_products, _float_constants(module, graph))


_NO_WEIGHT = "no multiply-accumulates with a weight"


def _live_graph(module: torch.jit.ScriptModule) -> Any:
    graph = module.inlined_graph.copy()
    torch._C._jit_pass_inline(graph)
    torch._C._jit_pass_dce(graph)
    return graph


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _path(value: Any) -> str | None:
    """Dotted path of an attribute read from the module itself; None for anything else."""
    parts: list[str] = []
    node = value.node()
    while node.kind() == "prim::GetAttr":
        parts.append(node.s("name"))
        node = node.inputsAt(0).node()
    return ".".join(reversed(parts)) if parts and node.kind() == "prim::Param" else None


def _attribute(module: torch.jit.ScriptModule, path: str) -> Any:
    """Submodule or other attribute at a dotted path; the module itself for an empty one."""
    return functools.reduce(getattr, path.split("."), module) if path else module


def _weight_ops(module: torch.jit.ScriptModule, graph: Any) -> list[_Op]:
    """Every live operator with a weight, in the order of execution."""
    ops: list[_Op] = []
    for node in _nodes(graph):
        kind = node.kind()
        if kind not in QUANTISED_OPS and kind not in FLOAT_OPS:
            continue
        path = _path(node.inputsAt(1))
        if path is None:
            raise ValueError(f"{kind} with a weight that is no attribute of the file")
        held, geometry = _attribute(module, path), None
        if kind == "quantized::conv2d":
            geometry = (held.stride(), held.padding(), held.dilation())
        elif "conv" in kind:
            geometry = (_ints(node.inputsAt(3)), _ints(node.inputsAt(4)), _ints(node.inputsAt(5)))
        weight = held.unpack()[0] if kind in QUANTISED_OPS else held
        ops.append(_Op(kind, path.rpartition(".")[0], weight, geometry))
    return ops


def _ints(value: Any) -> list[int]:
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        return [i.toIValue() for i in node.inputs()]
    return list(value.toIValue() or ())


def _profiled(run: Callable[[], object], ops: list[_Op]) -> tuple[dict[str, int], int]:
    """MACs of each layer, and those of the products of activations, from the shapes of one run."""
    # the legacy profiler: the newer one writes to the terminal
    with profile(record_shapes=True) as recorded:
        run()
    events = sorted(recorded.function_events, key=lambda e: e.time_range.start)
    # an operator may call itself with other arguments; only the outer call is the graph's
    outer = [e for e in events if e.cpu_parent is None or e.cpu_parent.name != e.name]
    weighted = [e for e in outer if e.name in QUANTISED_OPS or e.name in FLOAT_OPS]
    if [e.name for e in weighted] != [op.kind for op in ops]:
        raise ValueError("the operators that ran are not those of the graph")
    macs = {op.layer: 0 for op in ops}
    for event, op in zip(weighted, ops, strict=True):
        macs[op.layer] += _macs(op, event.input_shapes[0])
    products = 0
    for event in events:
        if event.name == "aten::bmm":
            first, second = event.input_shapes[:2]
            products += math.prod(first) * second[-1]
    return macs, products


def _macs(op: _Op, shape: list[int]) -> int:
    """Multiply-accumulates of one operator for an input of this shape."""
    if op.geometry is None:  # (..., I)
        return math.prod(shape[:-1]) * op.weight.numel()
    if op.kind == "aten::conv_transpose2d":
        return shape[0] * math.prod(shape[2:]) * op.weight.numel()
    kernel = op.weight.shape[2:]
    outputs = [
        (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for size, k, stride, padding, dilation in zip(shape[2:], kernel, *op.geometry, strict=True)
    ]
    return shape[0] * math.prod(outputs) * op.weight.numel()


def _executed_leaves(module: torch.jit.ScriptModule) -> dict[str, str]:
    """Name and class of every submodule that ``forward`` reaches and that calls no other; identities left out."""
    leaves: dict[str, str] = {}

    def visit(path: str, method: str) -> None:
        submodule = _attribute(module, path)
        called = False
        for node in _nodes(submodule._c._get_method(method).graph):
            if node.kind() == "prim::CallMethod":
                target = _path(node.inputsAt(0))
                called |= bool(target)
                visit(".".join(p for p in (path, target) if p), node.s("name"))
        if not called and submodule.original_name != "Identity" and part_of(path):
            leaves[path] = submodule.original_name

    visit("", "forward")
    return leaves


def _float_constants(module: torch.jit.ScriptModule, graph: Any) -> tuple[dict[str, Any], ...]:
    """Every float tensor of the file above ``LARGE`` bytes: name, shape, bytes, and the operators that use it."""
    uses: dict[str, set[str]] = {}
    tensors: dict[str, Tensor] = {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}
    for node in _nodes(graph):
        for value in node.inputs():
            source = value.node()
            if source.kind() == "prim::GetAttr" and str(value.type()).startswith("Tensor"):
                path = _path(value)
                if path:
                    uses.setdefault(path, set()).add(node.kind())
            elif source.kind() == "prim::Constant" and str(value.type()) == "Tensor":
                name = f"constant %{value.debugName()}"
                tensors[name] = value.toIValue()
                uses.setdefault(name, set()).add(node.kind())
    return tuple(
        {
            "name": name,
            "shape": list(tensor.shape),
            "bytes": tensor.numel() * tensor.element_size(),
            "use": sorted(uses.get(name, {"nothing"})),
        }
        for name, tensor in sorted(tensors.items())
        if tensor.is_floating_point() and tensor.numel() * tensor.element_size() > LARGE
    )
