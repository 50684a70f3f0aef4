"""Reads ONNX files back: the integers they hold, and what ONNX Runtime will run in integers."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ubq.errors import StageError
from ubq.export.lower.integer import StoredLayer
from ubq.i18n import gettext as _
from ubq.runtime.onnx import session

INTEGER_NODES = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
                 "DynamicQuantizeMatMul")  # fmt: skip
"""Operators of ONNX Runtime's optimised graph that multiply integers."""
_WEIGHT = ".weight"
_AS_UINT8 = "_s8_2_u8"
"""What ONNX Runtime adds to the name of a weight that it rewrites as uint8 (``ubq.runtime.onnx.session_options``)."""


class _Graph:
    """A graph by its edges."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.constants = {i.name: i for i in graph.initializer}
        self.maker = {output: node for node in self.nodes for output in node.output}
        self.users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def constant(self, name: str) -> NDArray:
        return numpy_helper.to_array(self.constants[name])

    def grid(self, node: Any) -> tuple[float, int]:
        """Scale and zero point of a quantise or dequantise node."""
        return float(self.constant(node.input[1])), int(self.constant(node.input[2]))

    def user(self, value: str, kind: str) -> Any:
        (node,) = [n for n in self.users[value] if n.op_type == kind]
        return node


def stored_layers(path: Path) -> dict[str, StoredLayer]:
    """Every int8 weight layer of one exported graph, by its name in the generator.

    Raises:
        ValueError: an int8 weight is used otherwise than in a QDQ group or an integer product.
    """
    graph = _Graph(path)
    layers = {}
    for name, constant in graph.constants.items():
        if constant.data_type == onnx.TensorProto.INT8 and name.endswith(_WEIGHT):
            (user,) = graph.users[name]
            read = {"DequantizeLinear": _static_layer, "MatMulInteger": _dynamic_layer}.get(user.op_type)
            if read is None:
                raise ValueError(f"{name} is read by {user.op_type}")
            layers[name.removesuffix(_WEIGHT)] = read(graph, user)
    return layers


def _static_layer(graph: _Graph, dequantise: Any) -> StoredLayer:
    (layer,) = graph.users[dequantise.output[0]]
    source, _weight, bias = (graph.maker[name] for name in layer.input)
    target = graph.user(layer.output[0], "QuantizeLinear")
    return StoredLayer(
        weight=graph.constant(dequantise.input[0]),
        scales=graph.constant(dequantise.input[1]),
        zero_points=graph.constant(dequantise.input[2]),
        bias=graph.constant(bias.input[0]),
        input=graph.grid(source),
        output=graph.grid(target),
    )


def _dynamic_layer(graph: _Graph, product: Any) -> StoredLayer:
    scaled = graph.user(graph.user(product.output[0], "Cast").output[0], "Mul")
    scale = graph.maker[next(n for n in scaled.input if graph.maker[n].op_type == "Mul")]
    add = graph.user(scaled.output[0], "Add")
    return StoredLayer(
        weight=graph.constant(product.input[1]).T,
        scales=graph.constant(next(n for n in scale.input if n in graph.constants)),
        zero_points=np.zeros(0, np.int64),
        bias=graph.constant(next(n for n in add.input if n in graph.constants)),
        input=None,
        output=None,
    )


def integer_layers_run(path: Path) -> dict[str, str]:
    """Layers that ONNX Runtime computes in integers, with the operator that does: read off its optimised graph."""
    with tempfile.TemporaryDirectory(prefix="ubq-onnx-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        session(path, threads=1, optimised=optimised)
        graph = _Graph(optimised)
    return {
        name.removesuffix(_WEIGHT): node.op_type
        for node in graph.nodes
        if node.op_type in INTEGER_NODES
        for name in _weights(graph, node)
    }


def _weights(graph: _Graph, node: Any) -> Iterator[str]:
    constants = (name.removesuffix(_AS_UINT8) for name in node.input if name in graph.constants)
    return (name for name in constants if name.endswith(_WEIGHT))


def require_integers(files: Collection[Path], layers: Collection[str]) -> None:
    """Raises a StageError where ONNX Runtime would compute one of these layers in float."""
    ran: set[str] = set()
    for file in files:
        ran |= integer_layers_run(file).keys()
    left = sorted(set(layers) - ran)
    if left:
        raise StageError(
            _("{file}: {count} of {total} layers would run in float: {names}").format(
                file=next(iter(files)), count=len(left), total=len(layers), names=", ".join(left[:5])
            ),
            _("use another version of {module}").format(module="onnxruntime"),
        )
