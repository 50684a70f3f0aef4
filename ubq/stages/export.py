"""export: the int8 files for the Pi, and the float reference they are judged against."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.i18n import gettext as _
from ubq.model.parts import UNET
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import set_threads
from ubq.stages.paths import RunPaths
from ubq.stages.qat import qat_generator
from ubq.stages.qat_diffusion import FINAL, QatDiffusion

FLOAT = "float"
"""Folder, inside the stage's own, that the float reference is written to."""


def name_of(config: Config, paths: RunPaths) -> str:
    """Name of the exported files: as configured, or the run's."""
    return config.export.name or paths.root.name


class Export(Stage):
    """Reads ``final_qat_model.pt``, makes ``exported_models/``."""

    name = "export"
    version = 2  # files that model gathers
    reads = ("export", "quant.backend", "quant.time_tables", "data.family")
    after = ("distill", "qat-diffusion")

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        from ubq.export.formats import other_format_files

        name = name_of(config, paths)
        model = paths.exported / f"{name}.pt"
        return [
            model,
            *other_format_files(model, config.export.formats),
            paths.exported / f"{name}_info.txt",
            paths.exported / "deployment_guide.md",
            paths.exported / "manifest.json",
            reference_file(config, paths),
        ]

    def run(self, context: StageContext) -> None:
        import torch

        from ubq.export.files import export_generator, without_quantisation
        from ubq.export.lower.torchscript import engine, load_torchscript, write_torchscript
        from ubq.export.readback.torchscript import count_file
        from ubq.quant.analysis import as_json, count_model, require_equal, write_analysis
        from ubq.quant.checkpoint import load_qat

        config, paths = context.config, context.paths
        set_threads(config)
        self._set_leftovers_aside(config, paths)
        checkpoint = load_qat(paths.checkpoints(QatDiffusion.name) / FINAL)
        generator, recipe = checkpoint.generator, checkpoint.recipe
        files = export_generator(
            generator,
            recipe,
            paths.exported,
            name_of(config, paths),
            family=config.data.family,
            formats=config.export.formats,
        )
        backend = recipe.quant.backend
        with engine(backend):
            exported = count_file(load_torchscript(files.model, backend))
        model = count_model(generator, recipe.quant)
        write_analysis(paths.checkpoints(self.name), as_json(model, exported, recipe))
        require_equal(model, exported)
        reference = without_quantisation(generator)
        if recipe.distilled:  # what training for int8 has moved counts as its error too
            student, _recipe = qat_generator(config, paths, UNET, torch.device("cpu"))
            reference.unet = without_quantisation(student).unet
        write_torchscript(reference, reference_file(config, paths), backend, recipe.quant.time_tables)
        context.log(
            _("{file}: {size:.1f} MB, {quantised} of {total} weight layers int8, weights_sha256 {digest}").format(
                file=files.model,
                size=files.model.stat().st_size / 1e6,
                quantised=exported.weight_layers.quantised,
                total=exported.weight_layers.total,
                digest=files.weights_sha256,
            )
        )

    def _set_leftovers_aside(self, config: Config, paths: RunPaths) -> None:
        """Take away what was written under another name or in other formats: it would load, and be the old model.

        It is kept with what else of the stage is superseded, which goes when the stage completes.
        """
        from ubq.export.manifest import listed_files
        from ubq.training.store import SUPERSEDED

        expected = set(self.outputs(config, paths))
        aside = paths.checkpoints(self.name) / SUPERSEDED / "files"
        references = reference_file(config, paths).parent
        for file in [*listed_files(paths.exported), *(references.glob("*.pt") if references.is_dir() else ())]:
            if file not in expected and file.is_file():
                aside.mkdir(parents=True, exist_ok=True)
                os.replace(file, aside / f"{file.parent.name}-{file.name}")


def reference_file(config: Config, paths: RunPaths) -> Path:
    """The float model with the same methods as the exported file."""
    return paths.checkpoints(Export.name) / FLOAT / f"{name_of(config, paths)}.pt"
