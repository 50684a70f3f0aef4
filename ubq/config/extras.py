"""The optional dependencies: which key needs which, and whether it is there (looked up, not imported)."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS: dict[str, tuple[str, ...]] = {
    "physics": ("deepwave",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
"""Extra of the package -> the modules it brings."""


def missing_modules(extra: str) -> tuple[str, ...]:
    """Modules of ``extra`` that are not installed."""
    return tuple(m for m in EXTRAS.get(extra, ()) if find_spec(m) is None)


def install_line(extra: str) -> str:
    """The command that installs ``extra``."""
    return f"pip install 'ubq[{extra}]'"
