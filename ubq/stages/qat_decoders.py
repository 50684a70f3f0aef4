"""qat-decoders: quantisation-aware training of both decoders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.floatmodel import DECODERS
from ubq.stages.latents import load_latents
from ubq.stages.loop import run_training
from ubq.stages.maps import open_maps
from ubq.stages.paths import RunPaths
from ubq.stages.qat import QUANT_KEYS, batches_of, finish, qat_generator, settings_for

FINAL = "final_qat_decoders.pt"


class QatDecoders(Stage):
    """Reads the float decoders, the latents and the pairs, makes ``final_qat_decoders.pt``."""

    name = "qat-decoders"
    trains = True
    reads = (
        "seed",
        "device",
        "data.normalization",
        "qat.decoders",
        "quant.velocity",
        "quant.seismic",
        "quant.fold_batchnorm",
        "quant.convert_transposed",
        *QUANT_KEYS,
    )
    after = ("prepare", "train-autoencoder", "train-seismic", "import")

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / FINAL]

    def run(self, context: StageContext) -> None:
        from ubq.quant.checkpoint import save_qat
        from ubq.quant.generator import decoders
        from ubq.quant.prepare import calibrate
        from ubq.training.qat import QatDecodersTask

        config, paths = context.config, context.paths
        device = use_device(config)
        generator, recipe = qat_generator(config, paths, DECODERS, device)
        model = decoders(generator)
        settings = settings_for(model, config.qat.decoders)
        latents = load_latents(paths, device)
        train, val = open_maps(config, paths, recipe.normalization, device, seismic=True)

        def forward(latent):  # type: ignore[no-untyped-def]
            return lambda: [decoder(latent) for decoder in model.values()]

        passes = [forward(batch) for batch in batches_of(latents.train, settings)]
        calibrate(model, passes)
        run_training(context, QatDecodersTask(model, latents, train, val, settings), settings, device)
        calibrate(model, passes)  # on the averaged weights, which are what is exported
        finish(model)
        save_qat(paths.checkpoints(self.name) / FINAL, generator, recipe, parts=("velocity", "seismic"))
