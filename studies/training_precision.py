"""Number formats and layouts of training: whole steps of the autoencoder and the U-Net, taken in turn.

``python studies/training_precision.py [--presets demo,curvefault-a-edge] [--device cpu] [--threads 1] [--rounds 7]``

float32, bfloat16 autocast, channels-last (the autoencoder's 2-D convolutions) and, with ``--compile``, torch.compile,
whose first call counts as warm-up. What pays decides ``Task.bfloat16_on`` and the layout of the training tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from qat_cost import Step, training_step
from torch import Tensor, nn

from ubq.bench.timing import machine, markdown, take_turns
from ubq.config.load import load_config
from ubq.config.schema import AutoencoderTraining
from ubq.model import GaussianDiffusion, ModelSizes, build_part
from ubq.stages.heap import kept_heap
from ubq.training.modules import Autoencoder
from ubq.training.randomness import SampleDraws
from ubq.training.tasks import velocity_loss

FLOAT, BFLOAT16, CHANNELS_LAST, BOTH, COMPILED = "float32", "bfloat16", "channels-last", "both", "compiled"


def step_of(model: nn.Module, loss: Callable[[], Tensor], device: torch.device, way: str) -> Step:
    """A whole training step in one of the ways."""

    def cast() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=way in (BFLOAT16, BOTH)):
            return loss()

    step = training_step(model, cast)

    def finished() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return finished


def autoencoder_step(sizes: ModelSizes, settings: AutoencoderTraining, device: torch.device, way: str) -> Step:
    """Of the encoder and the velocity decoder, on maps of noise."""
    torch.manual_seed(0)
    parts = [build_part(sizes, part) for part in ("encoder", "velocity_projector", "velocity_decoder")]
    model = Autoencoder(*parts).to(device)
    maps = torch.rand(settings.batch_size, 1, 70, 70, device=device) * 2 - 1
    if way in (CHANNELS_LAST, BOTH):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        maps = maps.contiguous(memory_format=torch.channels_last)
    called = torch.compile(model) if way == COMPILED else model
    draws = range(settings.batch_size)
    return step_of(
        model, lambda: velocity_loss(called(maps), maps, settings, SampleDraws(0, "bench", draws)), device, way
    )


def unet_step(sizes: ModelSizes, batch: int, device: torch.device, way: str) -> Step:
    """Of the diffusion U-Net, on latents of noise."""
    torch.manual_seed(0)
    unet = build_part(sizes, "unet").to(device)
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant).to(device)
    latents = torch.rand(batch, 1, sizes.encoder_dim, device=device) * 2 - 1
    noise = torch.randn_like(latents)
    times = torch.randint(sizes.diffusion_steps, (batch,), device=device)
    called = torch.compile(unet) if way == COMPILED else unet
    return step_of(unet, lambda: diffusion.loss(called, latents, times, noise), device, way)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", default="demo,curvefault-a-edge")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    ways = [FLOAT, BFLOAT16, CHANNELS_LAST, BOTH, *([COMPILED] if arguments.compile else [])]
    rows = []
    for preset in arguments.presets.split(","):
        config = load_config(preset, isolated=True).config
        sizes = ModelSizes.from_dict(config.model.model_dump())
        batch = config.train.diffusion.batch_size
        made: dict[str, dict[str, Step]] = {
            f"autoencoder, batch {config.train.autoencoder.batch_size}": {
                way: autoencoder_step(sizes, config.train.autoencoder, device, way) for way in ways
            },
            f"U-Net ({sizes.unet_dim}; {','.join(map(str, sizes.dim_mults))}), batch {batch}": {
                way: unet_step(sizes, batch, device, way) for way in ways if way not in (CHANNELS_LAST, BOTH)
            },
        }
        for name, steps in made.items():
            with kept_heap():
                taken = take_turns(steps, arguments.rounds)
            base = taken[FLOAT].median
            cells = [f"{taken[w].median:.3f} ({base / taken[w].median:.2f})" if w in taken else "" for w in ways]
            rows.append([preset, name, *cells])
    print(markdown(["preset", "step", *ways], rows))
    print(f"\nseconds (speed over float32), {device}, {arguments.threads} threads, medians of {arguments.rounds} "
          f"alternating steps; {machine()}")  # fmt: skip


if __name__ == "__main__":
    main()
