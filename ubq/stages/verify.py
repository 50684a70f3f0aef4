"""verify: every success mark, measured on the exported file in a process without ubq."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import run_command
from ubq.config.schema import Config
from ubq.errors import MarkFailedError
from ubq.i18n import gettext as _
from ubq.i18n import restored
from ubq.runtime.processor import exact_engine
from ubq.stages.base import Stage, StageContext, Stopped
from ubq.stages.export import name_of, reference_file
from ubq.stages.maps import open_split
from ubq.stages.page import write_report_page
from ubq.stages.paths import RunPaths
from ubq.verify.report import EVIDENCE, PAGE, REPORT

if TYPE_CHECKING:
    from ubq.verify.report import Report

PICTURE = "samples.png"


class Verify(Stage):
    """Reads ``exported_models/``, the metrics and the held-out pairs, makes ``report.json``, ``samples.png`` of a file
    that draws pairs, and the page that shows both.
    """

    name = "verify"
    version = 2  # pairs against the wave equation
    reads = ("seed", "quant.backend", "export.formats")
    after = ("prepare", "train-autoencoder", "train-seismic", "train-diffusion", "distill", "qat-decoders",
             "qat-diffusion", "export")  # fmt: skip

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        picture = paths.exported / PICTURE
        return [paths.exported / REPORT, paths.exported / PAGE, *([picture] if picture.exists() else [])]

    def run(self, context: StageContext) -> None:
        from ubq.verify.report import print_checklist

        (context.paths.exported / PICTURE).unlink(missing_ok=True)  # of an earlier file
        report = self._measure(context)
        report.write(context.paths.exported / REPORT)
        _write_page(context)
        print_checklist(report)
        failed = [mark.id for mark in report.marks if not mark.passed]
        if failed:
            raise MarkFailedError(
                _("success marks failed: {marks}").format(marks=", ".join(failed)),
                _("{command} says what fixes each").format(command=run_command("doctor", context.paths.root)),
            )

    def _measure(self, context: StageContext) -> Report:
        import torch

        from ubq.data.normalization import Normalization
        from ubq.data.split import SampleIds
        from ubq.durable import read_rows
        from ubq.export.formats import loadable_files
        from ubq.export.lower.torchscript import engine, load_torchscript
        from ubq.export.manifest import read_manifest
        from ubq.export.readback.torchscript import count_file
        from ubq.model import GaussianDiffusion, ModelSizes
        from ubq.stages import PIPELINE
        from ubq.training.latents import load_latents
        from ubq.verify.child import Exported
        from ubq.verify.measure import Int8Counts, verify_export

        config, paths = context.config, context.paths
        file = paths.exported / f"{name_of(config, paths)}.pt"
        facts = read_manifest(paths.exported / "manifest.json")
        sizes = ModelSizes.from_dict(facts["model"])
        with engine(facts["backend"]):
            counted = count_file(load_torchscript(file, facts["backend"]))
        split = open_split(config, paths, seismic=True)

        def progress(done: int, total: int) -> None:
            if total:
                context.progress(done, total, phase="generate")
            if context.stop_requested():
                raise Stopped

        return verify_export(
            Exported(
                file=file,
                reference=reference_file(config, paths),
                engine=exact_engine(facts["backend"]),
                steps=facts["steps"],
                latent=sizes.encoder_dim,
                alphas_cumprod=GaussianDiffusion(
                    sizes.diffusion_steps, sizes.objective, sizes.variant
                ).alphas_cumprod.tolist(),
                normalization=Normalization.from_dict(facts["normalization"]),
                velocity_shape=tuple(facts["velocity_shape"]),
                seismic_shape=tuple(facts["seismic_shape"]),
                other_files=tuple(loadable_files(file, config.export.formats)),
                distilled=bool(facts.get("distilled")),
            ),
            run=paths.root.name,
            counts=Int8Counts(
                quantised_modules=counted.leaf_modules.quantised,
                leaf_modules=counted.leaf_modules.total,
                conv1d_left=sum(layer.type == "Conv1d" for layer in counted.layers),
                conv1d_before=counted.conv1d.total,
            ),
            held_out=split.val,
            train=open_split(config, paths, seismic=False).train,
            rows=read_rows(paths.metrics),
            stages=[s.name for s in PIPELINE if s.trains and s.applies(config)],
            seed=config.seed,
            threads=config.threads,
            picture=paths.exported / PICTURE,
            evidence=paths.exported / EVIDENCE,
            latents=load_latents(paths.latents, torch.device("cpu"), SampleIds.of(split)).val
            if paths.latents.is_file()
            else None,
            progress=progress,
        )


def _write_page(context: StageContext) -> None:
    """The run's page, with this stage as it will be in a moment: complete."""
    from datetime import UTC, datetime

    from ubq.durable import read_object

    state = restored(read_object(context.paths.state))
    for entry in state.get("stages", []):
        if entry["name"] == Verify.name:
            started = datetime.fromisoformat(entry.get("started") or datetime.now(UTC).isoformat())
            spent = (datetime.now(UTC) - started).total_seconds()
            entry |= {"state": "completed", "step": entry["steps"], "seconds": max(entry["seconds"], spent)}
    write_report_page(context.paths, state, context.paths.exported / PAGE)
