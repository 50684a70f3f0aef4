"""Exported generators in use: ``load(path).sample(n, steps, seed)``, the same for every file format.

Loading a file imports the runtime of its format and nothing heavier: for ONNX numpy and onnxruntime, no torch.
"""

from __future__ import annotations

from pathlib import Path

from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.generator import LoadedModel, SamplerTables, SteppingGenerator

__all__ = ["LoadedModel", "SamplerTables", "SteppingGenerator", "load"]

SUFFIXES = {".pt": "torchscript", ".onnx": "onnx", ".pte": "executorch"}
"""Suffix of an exported file -> its format, as ``export.formats`` names it."""


def load(path: str | Path, threads: int = 0) -> LoadedModel:
    """Load an exported file.

    Args:
        path: ``NAME.pt``, ``NAME.onnx`` (with ``NAME.decoders.onnx`` beside it) or ``NAME.pte``.
        threads: CPU threads; 0: the runtime's choice.

    Raises:
        UsageError: not a file that ubq exported, or its runtime is not installed.
    """
    path = Path(path)
    runtime = SUFFIXES.get(path.suffix)
    if runtime is None:
        raise UsageError(
            _("{path} is no exported model").format(path=path),
            _("give a file that ends in {suffixes}").format(suffixes=", ".join(SUFFIXES)),
        )
    if not path.is_file():
        raise UsageError(_("{path} does not exist").format(path=path), _("give a file of exported_models"))
    if runtime == "onnx":
        from ubq.runtime.onnx import OnnxGenerator

        return OnnxGenerator(path, threads)
    if runtime == "executorch":
        from ubq.runtime.executorch import ExecutorchGenerator

        return ExecutorchGenerator(path, threads)
    from ubq.runtime.torchscript import TorchScriptGenerator

    return TorchScriptGenerator(path, threads)
