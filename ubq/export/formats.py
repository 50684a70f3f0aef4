"""The further files of an export, each lowered from the integers that the TorchScript file holds."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.extras import install_line, missing_modules
from ubq.errors import UsageError
from ubq.export.runtimes import EXECUTORCH, ONNX, RUNTIMES, TORCHSCRIPT
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.quant.generator import Generator

OTHER_FORMATS = {name: runtime for name, runtime in RUNTIMES.items() if runtime is not TORCHSCRIPT}
"""The formats beside TorchScript, as ``export.formats`` names them."""


def require_formats(formats: Collection[str]) -> None:
    """Raises a UsageError for a format whose packages are not installed here."""
    for name in formats:
        missing = missing_modules(name)
        if missing:
            raise UsageError(
                _("export format {name}: not installed here: {modules}").format(name=name, modules=", ".join(missing)),
                install_line(name),
            )


def other_format_files(model: Path, formats: Collection[str]) -> list[Path]:
    """The files of these formats beside ``NAME.pt``; TorchScript's own is not among them."""
    runtimes = [runtime for name, runtime in OTHER_FORMATS.items() if name in formats]
    return [model.with_name(model.stem + suffix) for runtime in runtimes for suffix in runtime.suffixes]


def remove_other_formats(model: Path, formats: Collection[str]) -> None:
    """Remove what an earlier export left beside ``NAME.pt`` in formats that are not written any more: it would load."""
    written = other_format_files(model, formats)
    for file in other_format_files(model, OTHER_FORMATS):
        if file not in written:
            file.unlink(missing_ok=True)


def loadable_files(model: Path, formats: Collection[str]) -> list[Path]:
    """Those of ``other_format_files`` that ``ubq.runtime.load`` is given."""
    return [model.with_name(model.stem + OTHER_FORMATS[name].suffixes[0]) for name in OTHER_FORMATS if name in formats]


def write_other_formats(
    generator: Generator, model: Path, formats: Collection[str], time_tables: bool, facts: str, weights_sha256: str
) -> list[Path]:
    """Write the files of these formats beside ``NAME.pt``.

    Args:
        generator: fake-quantised and calibrated; it stays as it is.
        model: the TorchScript file.
        formats: as in ``export.formats``.
        time_tables: replace the time MLPs by tables.
        facts: JSON that each format keeps inside one of its files.
        weights_sha256: of the integers.

    Raises:
        UsageError: a format's packages are not installed here.
        StageError: a runtime would compute a quantised layer in float.
    """
    require_formats(formats)
    if not other_format_files(model, formats):
        return []
    from ubq.export.lower.integer import integer_layers

    layers = integer_layers(generator)
    if ONNX.name in formats:
        from ubq.export.lower.onnx import write_onnx
        from ubq.export.readback.onnx import require_integers

        files = write_onnx(generator, model.with_suffix(".onnx"), time_tables, facts, weights_sha256, layers)
        require_integers(files, layers)
    if EXECUTORCH.name in formats:
        from ubq.export.lower.executorch import write_executorch
        from ubq.export.readback.executorch import stored_layers

        program = model.with_suffix(".pte")
        write_executorch(generator, program, time_tables, facts, layers)
        stored_layers(program, layers.values())
    return other_format_files(model, formats)
