"""Exported generators in use: ``load(path).sample(n, steps, seed)``, the same for every file format.

Loading a file imports the runtime of its format and nothing heavier: for ONNX numpy and onnxruntime, no torch.
Importing this package alone imports none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.runtime.generator import LoadedModel

SUFFIXES = {".pt": "torchscript", ".onnx": "onnx", ".pte": "executorch"}
"""Suffix of an exported file -> its format, as ``export.formats`` names it."""


def load(path: str | Path, threads: int = 0, backend: str = "") -> LoadedModel:
    """Load an exported file.

    Args:
        path: ``NAME.pt``, ``NAME.onnx`` (with ``NAME.decoders.onnx`` beside it) or ``NAME.pte``.
        threads: CPU threads; 0: the runtime's choice.
        backend: PyTorch's integer engine for a ``.pt``; empty: the one the file was made for.

    Raises:
        UsageError: not a file that ubq exported, its runtime is not installed, or it has no such engine.
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
    if backend and runtime != "torchscript":
        raise UsageError(
            _("{path} is computed by {runtime}, which has no engine to choose").format(path=path, runtime=runtime),
            _("leave --backend out"),
        )
    if runtime == "onnx":
        from ubq.runtime.onnx import OnnxGenerator

        return OnnxGenerator(path, threads)
    if runtime == "executorch":
        from ubq.runtime.executorch import ExecutorchGenerator

        return ExecutorchGenerator(path, threads)
    from ubq.runtime.torchscript import TorchScriptGenerator

    return TorchScriptGenerator(path, threads, backend)
