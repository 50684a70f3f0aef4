"""One small model written in every format that can be written here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_generator import tiny_generator, tiny_recipe

from ubq.export.files import ExportedFiles, export_generator
from ubq.export.lower.integer import IntegerLayer, integer_layers
from ubq.quant.generator import Generator


@dataclass(frozen=True)
class Written:
    """A generator, its integers and its files."""

    generator: Generator
    layers: dict[str, IntegerLayer]
    files: ExportedFiles

    def file(self, ending: str) -> Path:
        return self.files.model.with_name(f"tiny{ending}")


def write(folder: Path, *further: str) -> Written:
    recipe = tiny_recipe()
    generator = tiny_generator(recipe)
    formats = ("torchscript", *further)
    files = export_generator(generator, recipe, folder, "tiny", family="style-a", formats=formats)
    return Written(generator, integer_layers(generator), files)


@pytest.fixture(scope="session")
def with_onnx(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """TorchScript and ONNX files."""
    return write(tmp_path_factory.mktemp("onnx"), "onnx")


@pytest.fixture(scope="session")
def with_executorch(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """TorchScript and ExecuTorch files."""
    pytest.importorskip("executorch", reason="pip install executorch")
    return write(tmp_path_factory.mktemp("executorch"), "executorch")
