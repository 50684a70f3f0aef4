"""Exported ONNX files in use; needs numpy and onnxruntime, no torch.

``NAME.onnx`` is one U-Net step and carries the facts and the sampler's tables as metadata;
``NAME.decoders.onnx`` beside it turns latents into pairs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.facts import FACTS
from ubq.runtime.generator import TABLES, Array, SamplerTables, SteppingGenerator
from ubq.runtime.processor import adds_in_32_bits

WEIGHTS = "ubq.weights_sha256"
"""Metadata entry of both files: the integers they were made from."""
PRECISE = "session.x64quantprecision"
"""ONNX Runtime's option that multiplies by weights as uint8 on x86, which needs no sum of 16 bits."""
DECODERS_SUFFIX = ".decoders.onnx"


def decoders_file(path: Path) -> Path:
    """``NAME.decoders.onnx`` of ``NAME.onnx``."""
    return path.with_name(path.name.removesuffix(".onnx") + DECODERS_SUFFIX)


class OnnxGenerator(SteppingGenerator):
    """Runs on the CPU provider of ONNX Runtime."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        if path.name.endswith(DECODERS_SUFFIX):
            path = path.with_name(path.name.removesuffix(DECODERS_SUFFIX) + ".onnx")
        self._unet = session(path, threads)
        metadata = self._unet.get_modelmeta().custom_metadata_map
        try:
            super().__init__(json.loads(metadata[FACTS]), SamplerTables.from_json(metadata[TABLES]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                _("{path} is not a model that ubq exported").format(path=path), _("give the .onnx of exported_models")
            ) from error
        beside = decoders_file(path)
        self._decoders = session(beside, threads)
        if self._decoders.get_modelmeta().custom_metadata_map.get(WEIGHTS) != metadata.get(WEIGHTS):
            raise UsageError(
                _("{path} and {other} are of different exports").format(path=path, other=beside),
                _("copy both from one exported_models"),
            )
        self._inputs = {i.name for i in self._unet.get_inputs()}

    def unet(self, x: Array, time: NDArray[np.int64]) -> Array:
        inputs = {"x": x, "time": time}
        return self._unet.run(None, {name: inputs[name] for name in self._inputs})[0]

    def decode_normalised(self, latent: Array) -> tuple[Array, Array]:
        velocity, seismic = self._decoders.run(None, {"latent": latent})
        return velocity, seismic


def session_options(threads: int = 0):  # type: ignore[no-untyped-def]
    """``onnxruntime.SessionOptions`` under which this processor computes what the file says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: what warnings say is not the user's to fix
    if not adds_in_32_bits():
        options.add_session_config_entry(PRECISE, "1")
    return options


def session(path: Path, threads: int = 0, optimised: Path | None = None):  # type: ignore[no-untyped-def]
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        path: of the graph.
        threads: 0: the runtime's choice.
        optimised: where to write the graph as it will run.

    Raises:
        UsageError: onnxruntime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            _("not installed here: {modules}").format(modules="onnxruntime"), "pip install onnxruntime"
        ) from error
    options = session_options(threads)
    if optimised is not None:
        # the level that is independent of the machine's memory layouts
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimised)
    if not path.is_file():
        raise UsageError(_("{path} does not exist").format(path=path), _("give a file of exported_models"))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from nothing narrower
        first = str(error).strip().splitlines()[0]
        raise UsageError(
            _("{path} cannot be loaded: {error}").format(path=path, error=first), _("export the model again")
        ) from error
