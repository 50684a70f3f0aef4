"""verify: every success mark, measured on the exported file in a process without ubq."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.errors import MarkFailedError
from ubq.i18n import gettext as _
from ubq.stages.base import Stage, StageContext, Stopped
from ubq.stages.export import name_of, reference_file
from ubq.stages.maps import data_of, further_pairs, seismic_shape
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    from ubq.verify.report import Report

REPORT = "report.json"


class Verify(Stage):
    """Reads ``exported_models/``, the metrics and the held-out pairs, makes ``report.json`` and ``samples.png``."""

    name = "verify"
    reads = ("seed", "quant.backend", "export.formats")
    after = ("prepare", "train-autoencoder", "train-seismic", "train-diffusion", "qat-decoders", "qat-diffusion",
             "export")  # fmt: skip

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.exported / REPORT, paths.exported / "samples.png"]

    def run(self, context: StageContext) -> None:
        from ubq.verify.report import print_checklist

        report = self._measure(context)
        report.write(context.paths.exported / REPORT)
        print_checklist(report)
        failed = [mark.id for mark in report.marks if not mark.passed]
        if failed:
            raise MarkFailedError(
                _("success marks failed: {marks}").format(marks=", ".join(failed)),
                _("ubq doctor {run} says what fixes each").format(run=report.run),
            )

    def _measure(self, context: StageContext) -> Report:
        from ubq.data.normalization import Normalization
        from ubq.data.pairs import open_pairs
        from ubq.durable import read_rows
        from ubq.export.formats import loadable_files
        from ubq.export.lower.torchscript import engine, load_torchscript
        from ubq.export.manifest import read_manifest
        from ubq.export.readback.torchscript import count_file
        from ubq.model import GaussianDiffusion, ModelSizes
        from ubq.stages import PIPELINE
        from ubq.verify.child import Exported
        from ubq.verify.measure import Int8Counts, verify_export

        config, paths = context.config, context.paths
        file = paths.exported / f"{name_of(config, paths)}.pt"
        facts = read_manifest(paths.exported / "manifest.json")
        sizes = ModelSizes.from_dict(facts["model"])
        with engine(facts["backend"]):
            counted = count_file(load_torchscript(file, facts["backend"]))
        split = open_pairs(data_of(config, paths), config.seed, True, seismic_shape(config))
        further = further_pairs(config, paths)

        def progress(done: int, total: int) -> None:
            context.progress(done, total, phase="generate")
            if context.stop_requested():
                raise Stopped

        return verify_export(
            Exported(
                file=file,
                reference=reference_file(config, paths),
                engine=facts["backend"],
                steps=facts["steps"],
                latent=sizes.encoder_dim,
                alphas_cumprod=GaussianDiffusion(
                    sizes.diffusion_steps, sizes.objective, sizes.variant
                ).alphas_cumprod.tolist(),
                normalization=Normalization.from_dict(facts["normalization"]),
                velocity_shape=tuple(facts["velocity_shape"]),
                seismic_shape=tuple(facts["seismic_shape"]),
                further=tuple(loadable_files(file, config.export.formats)),
            ),
            run=paths.root.name,
            counts=Int8Counts(
                quantised_modules=counted.leaf_modules.quantised,
                leaf_modules=counted.leaf_modules.total,
                conv1d_left=sum(layer.type == "Conv1d" for layer in counted.layers),
                conv1d_before=counted.conv1d.total,
            ),
            held_out=split.val,
            train=split.train if further is None else split.train + further,
            rows=read_rows(paths.metrics),
            stages=[s.name for s in PIPELINE if s.trains and s.applies(config)],
            seed=config.seed,
            threads=config.threads,
            forward=_forward_model(),
            picture=paths.exported / "samples.png",
            progress=progress,
        )


def _forward_model():  # type: ignore[no-untyped-def]
    """Forward modelling for the physics residual, where deepwave is installed."""
    from ubq.config.extras import missing_modules
    from ubq.data.forward import forward_model

    return None if missing_modules("physics") else forward_model
