"""train-seismic: the seismic decoder, from the latents of the frozen encoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.model.parts import SEISMIC
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.floatmodel import imported, new_parts, normalization_of, state_of
from ubq.stages.loop import run_training
from ubq.stages.modelled import open_training_pairs
from ubq.stages.paths import RunPaths
from ubq.training.files import save_tensors


class TrainSeismic(Stage):
    """Reads the latents, the seismic files and the modelled pairs, makes ``seismic.pt``."""

    name = "train-seismic"
    trains = True
    reads = (
        "seed",
        "device",
        "data.normalization",
        "model.seismic_latent",
        "model.seismic_depth",
        "model.seismic_heads",
        "model.seismic_mlp_ratio",
        "model.sources",
        "model.seismic_samples",
        "model.receivers",
        "train.seismic",
    )
    after = ("prepare", "train-autoencoder", "model-pairs")

    def applies(self, config: Config) -> bool:
        return not imported(config)

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / "seismic.pt"]

    def run(self, context: StageContext) -> None:
        from ubq.training.head import fit_head
        from ubq.training.modules import SeismicBranch
        from ubq.training.tasks import SeismicTask

        config, paths = context.config, context.paths
        settings = config.train.seismic
        device = use_device(config)
        parts = new_parts(config, paths, SEISMIC, device, self.name)
        model = SeismicBranch(**parts)
        normalization = normalization_of(config, paths)
        pairs = open_training_pairs(config, paths, normalization, device)
        if settings.fit_head and not context.store.latest_step():
            fit_head(model, pairs.latents.train, pairs.train, settings.batch_size, pairs.modelled)
        task = SeismicTask(model, pairs.latents, pairs.train, pairs.val, settings, normalization)
        run_training(context, task, settings, device)
        save_tensors(paths.checkpoints(self.name) / "seismic.pt", state_of(parts))
