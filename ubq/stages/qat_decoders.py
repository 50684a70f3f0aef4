"""qat-decoders: quantisation-aware training of both decoders."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.distributed import first_alone
from ubq.errors import CheckpointError
from ubq.i18n import gettext as _
from ubq.model.parts import DECODERS
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.loop import run_training
from ubq.stages.modelled import open_training_pairs
from ubq.stages.paths import RunPaths
from ubq.stages.qat import (
    HELD_OUT_INPUTS,
    QUANT_KEYS,
    batches_of,
    finish,
    judge_within_budget,
    qat_generator,
    recipe_of,
    settings_for,
    write_stage_analysis,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ubq.quant.sensitivity import HeldOutInputs

FINAL = "final_qat_decoders.pt"
TRAINED = ("velocity", "seismic")


class QatDecoders(Stage):
    """Reads the float decoders, the latents and the pairs, makes ``final_qat_decoders.pt``."""

    name = "qat-decoders"
    version = 5  # hidden channels of one reach, grids before a ReLU from zero
    trains = True
    reads = (
        "seed",
        "device",
        "data.normalization",
        "pretrained.decoder_path",
        "qat.decoders",
        "quant.velocity",
        "quant.seismic",
        "quant.fold_batchnorm",
        "quant.convert_transposed",
        *QUANT_KEYS,
    )
    after = ("prepare", "train-autoencoder", "model-pairs", "train-seismic", "import")

    def inputs(self, config: Config) -> Iterable[Path]:
        return [Path(config.pretrained.decoder_path)] if config.pretrained.decoder_path else []

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / FINAL]

    def run(self, context: StageContext) -> None:
        from ubq.quant.checkpoint import is_qat, save_qat
        from ubq.quant.equalise import equalise_channels
        from ubq.quant.generator import decoders
        from ubq.quant.prepare import calibrate
        from ubq.training.qat import QatDecodersTask

        config, paths = context.config, context.paths
        device = use_device(config)
        decoder_path = Path(config.pretrained.decoder_path)
        if config.pretrained.decoder_path and is_qat(decoder_path):
            first_alone()
            self._take_over(context, decoder_path)
            return
        generator, recipe = qat_generator(config, paths, DECODERS, device)
        model = decoders(generator)
        settings = settings_for(model, config.qat.decoders)
        pairs = open_training_pairs(config, paths, recipe.normalization, device)
        latents = pairs.latents

        batches = list(batches_of(latents.train, settings))
        equalise_channels(generator.velocity_decoder, [partial(model["velocity"], batch) for batch in batches])
        passes = [partial(decoder, batch) for batch in batches for decoder in model.values()]
        calibrate(model, passes)
        inputs = held_out_inputs(latents.val[:HELD_OUT_INPUTS])
        judge_within_budget(context, generator, inputs, TRAINED)
        task = QatDecodersTask(model, latents, pairs.train, pairs.val, settings, recipe.normalization)
        run_training(context, task, settings, device)
        calibrate(model, passes)  # on the averaged weights, which are what is exported
        finish(model)
        save_qat(paths.checkpoints(self.name) / FINAL, generator, recipe, parts=TRAINED)
        write_stage_analysis(context, generator, recipe, inputs, TRAINED)

    def _take_over(self, context: StageContext, decoder_path: Path) -> None:
        """Use decoders that another run has trained, where they fit this one's model."""
        from ubq.quant.checkpoint import load_parts, save_qat, skeleton

        config, paths = context.config, context.paths
        recipe = recipe_of(config, paths)
        generator = skeleton(recipe)
        held = load_parts(generator, decoder_path)
        missing = sorted(set(TRAINED) - set(held))
        if missing:
            raise CheckpointError(
                _("{path} holds no {parts} decoder").format(path=decoder_path, parts=", ".join(missing)),
                _("give a final_qat_decoders.pt as --decoder-checkpoint"),
            )
        save_qat(paths.checkpoints(self.name) / FINAL, generator, recipe, parts=TRAINED)
        context.log(_("decoders taken over from {path}").format(path=decoder_path))


def held_out_inputs(latents: Tensor) -> HeldOutInputs:
    """Held-out latents (B, L) for the decoders; the U-Net is not looked at."""
    from ubq.quant.sensitivity import HeldOutInputs

    return HeldOutInputs(latents[:, None], latents.new_zeros(len(latents)).long(), latents[:, None])
