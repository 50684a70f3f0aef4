"""Reads ExecuTorch files back: the integers of every layer that XNNPACK computes.

The only place that uses ExecuTorch's private readers: it offers no public ones.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ubq.errors import StageError
from ubq.export.lower.integer import IntegerLayer, StoredLayer
from ubq.export.lower.qdq import SIGNED_OFFSET
from ubq.i18n import gettext as _

LAYERS = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
"""XNNPACK's operators with a weight."""
_DTYPES = {"xnn_datatype_qcint8": np.int8, "xnn_datatype_qcint32": np.int32, "xnn_datatype_fp32": np.float32}
_FLOAT, _DYNAMIC, _INT8 = "xnn_datatype_fp32", "xnn_datatype_qdint8", "xnn_datatype_qint8"


class _Delegate:
    """One graph that the program hands to XNNPACK."""

    def __init__(self, graph: Mapping[str, Any], inline: bytes, named: Mapping[str, bytes]) -> None:
        self.graph, self.inline, self.named = graph, inline, named
        self.values = {_tensor(v)["id_out"]: v["xvalue_union"] for v in graph["xvalues"]}

    def layers(self) -> Iterator[StoredLayer]:
        for node in self.graph["xnodes"]:
            if node["xnode_union_type"] in LAYERS:
                yield self._layer(node["xnode_union"], node["xnode_union_type"])

    def _layer(self, node: Mapping[str, Any], kind: str) -> StoredLayer:
        value = self.values[node["filter_id"]]
        if _tensor(value)["datatype"] != "xnn_datatype_qcint8":
            raise ValueError(f"the weight of a {kind} is {_tensor(value)['datatype']}")
        weight = self._array(value)
        if weight.ndim == 4:  # (1, K, K, O) of a depthwise layer, else (O, K, K, I)
            weight = weight.transpose((3, 0, 1, 2) if kind == "XNNDepthwiseConv2d" else (0, 3, 1, 2))
        return StoredLayer(
            weight=weight,
            scales=self._scales(value["quant_params"]),
            zero_points=np.zeros(0, np.int64),
            bias=self._array(self.values[node["bias_id"]]),
            input=self._grid(node["input1_id"], _DYNAMIC),
            output=self._grid(node["output_id"], _FLOAT),
        )

    def _grid(self, value_id: int, free: str) -> tuple[float, int] | None:
        """Scale and zero point of an activation, None where it is of the ``free`` type."""
        value = self.values[value_id]
        kind = _tensor(value)["datatype"]
        if kind == free:
            return None
        if kind != _INT8:
            raise ValueError(f"an activation is {kind}")
        params = value["quant_params"]
        return float(np.uint32(params["scale"]).view(np.float32)), params["zero_point"] + SIGNED_OFFSET

    def _constant(self, index: int) -> bytes:
        entry = self.graph["constant_data"][index]
        if entry["named_key"]:
            return self.named[entry["named_key"]]
        return self.inline[entry["offset"] : entry["offset"] + entry["size"]]

    def _array(self, value: Mapping[str, Any]) -> NDArray:
        tensor = _plain(value)
        data = self._constant(tensor["constant_buffer_idx"])
        size = int(np.prod(tensor["dims"]))
        return np.frombuffer(data, _DTYPES[tensor["datatype"]], size).reshape(tensor["dims"])

    def _scales(self, params: Mapping[str, Any]) -> NDArray:
        if params["scale"]:
            return np.asarray(params["scale"], np.float32)
        return np.frombuffer(self._constant(params["scale_buffer_idx"]), np.float32, params["num_scales"])


def _plain(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return value.get("tensor_value", value)


def _tensor(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return _plain(value.get("xvalue_union", value))


def delegated_layers(path: Path) -> list[StoredLayer]:
    """Every weight layer of a program that XNNPACK computes in integers, in the order of the program.

    Raises:
        ValueError: XNNPACK computes one in float.
    """
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(path.read_bytes())
    store = file.named_data
    named = {key: store.buffers[entry.buffer_index] for key, entry in store.pte_data.items()} if store else {}
    layers: list[StoredLayer] = []
    for plan in file.program.execution_plan:
        for delegate in plan.delegates:
            blob = file.program.backend_delegate_data[delegate.processed.index].data
            header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
            graph = _as_json(blob[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
            layers += _Delegate(graph, blob[header.constant_data_offset :], named).layers()
    return layers


def _as_json(flatbuffer: bytes) -> dict[str, Any]:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    with tempfile.TemporaryDirectory(prefix="ubq-pte-") as folder:
        schema, binary = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        # flatc prints six digits of a float; of an unsigned integer it prints every bit
        text, count = re.subn(r"(table PerTensorQuant \{\s*scale:)float", r"\1uint", _get_schema_bytes().decode())
        if count != 1:
            raise ValueError("this ExecuTorch describes its XNNPACK graphs in another way")
        schema.write_text(text)
        binary.write_bytes(flatbuffer)
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        text = (Path(folder) / "graph.json").read_text()
    return json.loads(re.sub(r": \+?(-?)inf\b", r": \1Infinity", text))  # limits of a ReLU, which JSON cannot say


def stored_layers(path: Path, layers: Collection[IntegerLayer]) -> dict[str, StoredLayer]:
    """What a program holds of these layers, by name; a program has no names, so the int8 weights tell.

    Raises:
        StageError: XNNPACK does not compute one of them in integers.
    """
    delegated: dict[bytes, list[StoredLayer]] = {}
    for stored in delegated_layers(path):
        delegated.setdefault(stored.weight.tobytes(), []).append(stored)
    candidates_of = {layer.name: delegated.get(layer.weight.numpy().tobytes(), []) for layer in layers}
    left = sorted(name for name, candidates in candidates_of.items() if not candidates)
    if left:
        raise StageError(
            _("{file}: {count} of {total} layers would run in float: {names}").format(
                file=path, count=len(left), total=len(layers), names=", ".join(left[:5])
            ),
            _("use another version of {module}").format(module="executorch"),
        )
    return {
        name: candidates.pop(0) if len(candidates) > 1 else candidates[0] for name, candidates in candidates_of.items()
    }
