"""train-diffusion: the U-Net, over the latents alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.model.parts import UNET
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.floatmodel import imported, new_parts, sizes_of, state_of
from ubq.stages.loop import built_on, run_training, shards
from ubq.stages.maps import open_latents
from ubq.stages.paths import RunPaths
from ubq.training.files import save_tensors

UNET_KEYS = (
    "model.variant",
    "model.encoder_dim",
    "model.unet_dim",
    "model.dim_mults",
    "model.norm_groups",
    "model.attention_heads",
    "model.attention_dim_head",
    "model.diffusion_steps",
    "model.objective",
)


class TrainDiffusion(Stage):
    """Reads the latents and no map, makes ``diffusion.pt``."""

    name = "train-diffusion"
    version = 3  # latents of maps without gathers too
    trains = True
    reads = ("seed", "device", "train.diffusion", *UNET_KEYS)
    after = ("train-autoencoder",)

    def applies(self, config: Config) -> bool:
        return not imported(config)

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / "diffusion.pt"]

    def run(self, context: StageContext) -> None:
        from ubq.model import GaussianDiffusion
        from ubq.training.tasks import BFLOAT16_CHANNELS, DiffusionTask

        config, paths = context.config, context.paths
        settings = config.train.diffusion
        device = use_device(config)
        shard = shards(context)
        parts = new_parts(config, paths, UNET, built_on(device, shard), self.name)
        sizes = sizes_of(config, paths)
        uniform = settings.loss_weight == "uniform"
        diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant, uniform).to(device)
        wide = sizes.unet_dim >= BFLOAT16_CHANNELS
        task = DiffusionTask(parts["unet"], diffusion, open_latents(paths, device), wide=wide)
        run_training(context, task, settings, device, unet_evaluations=1, shard=shard)
        save_tensors(paths.checkpoints(self.name) / "diffusion.pt", state_of(parts))
