"""prepare: validate the data that were given, or synthesise pairs where none were."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.i18n import gettext as _
from ubq.stages.base import Stage, StageContext, Stopped
from ubq.stages.maps import data_of, further_file, seismic_shape, synthetic_folder
from ubq.stages.paths import RunPaths
from ubq.training.files import save_json


class Prepare(Stage):
    """Reads the data folders, makes ``data/dataset.json`` (and ``data/synthetic/``)."""

    name = "prepare"
    reads = (
        "data.family",
        "data.train_seismic",
        "data.train_velocity",
        "data.val_seismic",
        "data.val_velocity",
        "data.normalization",
        "data.synth_samples",
        "data.synth_maps",
        "data.val_fraction",
        "data.min_val_samples",
        "seed",
    )

    def inputs(self, config: Config) -> Iterable[Path]:
        data = config.data
        given = {data.train_seismic, data.train_velocity, data.val_seismic, data.val_velocity} - {""}
        return [file for place in sorted(given) for file in _files_of(place)]

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.data / "dataset.json"]

    def run(self, context: StageContext) -> None:
        from ubq.data.validate import validate

        if not context.config.data.train_velocity:
            self._synthesise(context)
        report = validate(
            data_of(context.config, context.paths),
            context.config.seed,
            lambda done, total: context.progress(done, total, phase="validate"),
            seismic_shape=seismic_shape(context.config),
        )
        for warning in report.warnings:
            context.log(_("warning: {warning}").format(warning=warning))
        save_json(context.paths.data / "dataset.json", report.to_dict())
        context.log(report.summary())

    def _synthesise(self, context: StageContext) -> None:
        from ubq.data.forward import forward_files, require_deepwave
        from ubq.data.pairs import held_out_samples
        from ubq.data.synthetic import write_maps, write_synthetic

        require_deepwave()
        config, folder = context.config, synthetic_folder(context.paths)
        samples = config.data.synth_samples
        held_out = held_out_samples(samples, config.data)
        context.log(
            _("no data folder given: synthesising {train} training and {val} held-out {family}-like pairs").format(
                train=samples - held_out, val=held_out, family=config.data.family
            )
        )
        write_synthetic(config.data.family, samples - held_out, held_out, config.seed, folder, replace=True)
        if config.data.synth_maps:
            context.log(_("and {maps} maps without gathers").format(maps=config.data.synth_maps))
            write_maps(further_file(context.paths), config.data, config.seed, start=samples - held_out)
        finished = forward_files(
            folder,
            folder,
            workers=config.data.workers,
            progress=lambda done, total: context.progress(done, total, phase="forward"),
            should_stop=context.stop_requested,
        )
        if not finished:
            raise Stopped


def _files_of(place: str) -> list[Path]:
    """The ``.npy`` files that a data path may mean: a folder, with its subfolders, a pattern, or a file.

    What else lies in a folder decides nothing. A path that means no file is returned itself.
    """
    path = Path(place).expanduser()
    files: list[Path] = []
    if path.is_dir():
        files = sorted((*path.glob("*.npy"), *path.glob("*/*.npy")))
    elif any(c in path.name for c in "*?["):
        files = sorted(path.parent.glob(path.name))
    return files or [path]
