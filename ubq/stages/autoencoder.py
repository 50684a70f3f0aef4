"""train-autoencoder: encoder and velocity decoder, and the latents of every sample."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.model.parts import AUTOENCODER
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.floatmodel import imported, new_parts, normalization_of, state_of
from ubq.stages.loop import run_training
from ubq.stages.maps import open_maps, sample_ids
from ubq.stages.paths import RunPaths
from ubq.training.files import save_tensors


class TrainAutoencoder(Stage):
    """Reads velocity maps only, makes ``autoencoder.pt`` and ``latents.pt``."""

    name = "train-autoencoder"
    version = 4  # kernels that upsample interpolate, patches of one phase a step, maps without gathers
    trains = True
    reads = (
        "seed",
        "device",
        "data.normalization",
        "data.synth_maps",
        "model.encoder_dim",
        "model.encoder_dims",
        "model.velocity_latent",
        "model.velocity_dims",
        "train.autoencoder",
    )
    after = ("prepare",)

    def applies(self, config: Config) -> bool:
        return not imported(config)

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / "autoencoder.pt", paths.latents]

    def run(self, context: StageContext) -> None:
        from ubq.training.latent_order import order_latent
        from ubq.training.latents import ENCODER_BATCH, encode_all, save_latents
        from ubq.training.modules import Autoencoder
        from ubq.training.tasks import AutoencoderTask

        config, paths = context.config, context.paths
        settings = config.train.autoencoder
        device = use_device(config)
        parts = new_parts(config, paths, AUTOENCODER, device, self.name)
        model = Autoencoder(**parts)
        train, val = open_maps(config, paths, normalization_of(config, paths), device, seismic=False)
        run_training(context, AutoencoderTask(model, train, val, settings), settings, device)
        order_latent(model, encode_all(model.encoder, train, ENCODER_BATCH))
        save_latents(model.encoder, {"train": train, "val": val}, paths.latents, sample_ids(paths))
        save_tensors(paths.checkpoints(self.name) / "autoencoder.pt", state_of(parts))
