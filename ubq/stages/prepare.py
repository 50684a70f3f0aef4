"""prepare: validate the data that were given, or synthesise pairs where none were."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.errors import DataError
from ubq.i18n import gettext as _
from ubq.i18n import storable
from ubq.stages.base import Stage, StageContext, Stopped
from ubq.stages.maps import DATASET, data_of, maps_alone, seismic_shape, synthetic_folder
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
        from ubq.data.files import files_of

        return files_of(config.data)

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.data / DATASET]

    def run(self, context: StageContext) -> None:
        from ubq.data.files import no_data
        from ubq.data.pairs import maps_of_file, open_pairs
        from ubq.data.split import split_to_dict
        from ubq.data.validate import validate_split

        config, paths = context.config, context.paths
        if not config.data.train_velocity:
            if not config.data.synth_samples:
                raise DataError(*no_data(config))
            self._synthesise(context)
        data = data_of(config, paths)
        split = open_pairs(data, config.seed, seismic_shape=seismic_shape(config))
        if config.data.synth_maps and not config.data.train_velocity:
            split = split.with_training_maps(maps_of_file(maps_alone(paths)))
        split.pairs()  # neither side is without
        report = validate_split(split, data, lambda done, total: context.progress(done, total, phase="validate"))
        for warning in report.warnings:
            context.log(_("warning: {warning}").format(warning=warning))
        written = {**report.to_dict(), "split": split_to_dict(split, paths.root)}
        save_json(paths.data / DATASET, storable(written))
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
            write_maps(maps_alone(context.paths), config.data, config.seed, start=samples - held_out)
        finished = forward_files(
            folder,
            folder,
            workers=config.data.workers,
            progress=lambda done, total: context.progress(done, total, phase="forward"),
            should_stop=context.stop_requested,
        )
        if not finished:
            raise Stopped
