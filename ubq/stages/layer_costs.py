"""What quantising each layer of a run costs, measured anew on its held-out latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ubq.config.load import read_frozen
from ubq.config.runs import run_command
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.stages.distill import teacher_ends
from ubq.stages.maps import open_latents
from ubq.stages.paths import RunPaths
from ubq.stages.qat import HELD_OUT_INPUTS
from ubq.stages.qat_decoders import TRAINED as DECODERS
from ubq.stages.qat_decoders import held_out_inputs as decoder_inputs
from ubq.stages.qat_diffusion import TRAINED as DIFFUSION
from ubq.stages.qat_diffusion import held_out_inputs as diffusion_inputs
from ubq.stages.qat_diffusion import inputs_on_way

if TYPE_CHECKING:
    from ubq.quant.checkpoint import QatCheckpoint
    from ubq.quant.sensitivity import Sensitivity


def layer_costs(paths: RunPaths, checkpoint: QatCheckpoint, worst: int | None) -> list[Sensitivity]:
    """Every layer that a run's QAT checkpoint holds, the most harmful first.

    Args:
        paths: of the run.
        checkpoint: one of the run's.
        worst: layers of each part that are measured; None: all of them, two evaluations each.

    Raises:
        UsageError: the run has no latents.
    """
    import torch

    from ubq.model import GaussianDiffusion
    from ubq.quant.sensitivity import layer_sensitivities

    if not paths.latents.is_file():
        raise UsageError(
            _("run {run} has no held-out latents to measure layers on").format(run=paths.root.name),
            run_command("resume", paths.root),
        )
    latents = open_latents(paths, torch.device("cpu")).val[:HELD_OUT_INPUTS]
    generator, sizes = checkpoint.generator.eval(), checkpoint.recipe.sizes
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
    config = read_frozen(paths.config)
    if checkpoint.recipe.distilled:
        noise = teacher_ends(config, paths, torch.device("cpu"))[1].noise[:HELD_OUT_INPUTS]
        met = inputs_on_way(generator, noise)
    else:
        met = diffusion_inputs(generator, diffusion, latents, config.seed)
    inputs_of = {
        DIFFUSION: met,
        DECODERS: decoder_inputs(latents),
    }
    sensitivities: list[Sensitivity] = []
    for parts, inputs in inputs_of.items():
        held = [part for part in parts if part in checkpoint.parts]
        sensitivities += layer_sensitivities(generator, inputs, held, worst)
    return sorted(sensitivities, key=lambda s: -s.alone)
