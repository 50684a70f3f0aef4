"""What the int8 velocity decoder of a run costs its maps, and what of it rounding alone costs.

``python studies/decoder_rounding.py RUN_FOLDER [--maps 1024]`` decodes the latents that the float U-Net draws, in a
distilled run the student, with the float decoder and with it calibrated only: with channels and grids before a ReLU as
they are, with grids from zero, with channels of one reach, with both (``ubq/quant/equalise.py``); then with the run's
trained decoder, fake-quantised and in float. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from distillation import float_generator, held_out, interval, latents_of, maps_of, relative
from torch import Tensor, nn

from ubq.bench.distance import Noise
from ubq.bench.subject import trained_model
from ubq.bench.timing import machine, markdown
from ubq.config.load import read_frozen
from ubq.config.schema import Config
from ubq.quant.checkpoint import load_qat
from ubq.quant.equalise import equalise_channels
from ubq.quant.generator import Generator
from ubq.quant.layers import StaticQuantLayer
from ubq.quant.phases import phase_set, set_phase
from ubq.quant.prepare import calibrate
from ubq.stages.paths import RunPaths
from ubq.stages.qat import batches_of, qat_generator
from ubq.stages.qat_decoders import FINAL
from ubq.training.latents import load_latents

CPU = torch.device("cpu")
WAYS = {
    "calibrated, channels and grids as they are": (False, False),
    "calibrated, grids before a ReLU from zero": (True, False),
    "calibrated, channels of one reach": (False, True),
    "calibrated, both": (True, True),
}
"""Row -> grids from zero, channels of one reach."""


def calibrated(config: Config, paths: RunPaths, latents: Tensor, from_zero: bool, equalised: bool) -> Generator:
    """The run's float decoder on the grids that calibration with latents (N, L) gives."""
    generator = qat_generator(config, paths, ("velocity_projector", "velocity_decoder"), CPU)[0].eval()
    both = nn.Sequential(generator.velocity_projector, generator.velocity_decoder)
    passes = [partial(both, batch) for batch in batches_of(latents, config.qat.decoders)]
    if equalised:
        equalise_channels(generator.velocity_decoder, passes)
    for layer in both.modules():
        if isinstance(layer, StaticQuantLayer):
            layer.output.rectified &= from_zero
    calibrate(both, passes)
    set_phase(both, "frozen")
    return generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--maps", type=int, default=1024, help="maps drawn")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out maps, where the data are synthetic")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as the run")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    config = read_frozen(paths.config)
    torch.set_num_threads(arguments.threads or config.threads)
    distilled = bool(config.distill.steps)
    float_model = float_generator(trained_model(paths.root, student=distilled), config.sampling, distilled)
    latents = latents_of(float_model, Noise(arguments.maps, float_model.latent_length, 0))
    clean, real = maps_of(float_model, latents), held_out(paths.root, arguments.held_out)
    middle = clean.mean()

    def row(name: str, maps: Tensor) -> list[str]:
        return [name, relative(maps - middle, clean - middle), interval(maps, clean, real)]

    training = load_latents(paths.latents, CPU).train
    rows = [row(name, maps_of(calibrated(config, paths, training, *way), latents)) for name, way in WAYS.items()]
    trained = load_qat(paths.checkpoints("qat-decoders") / FINAL).generator.eval()
    rows.append(row("trained", maps_of(trained, latents)))
    with phase_set(trained, "float"):
        rows.append(row("trained, in float", maps_of(trained, latents)))
    print(markdown(["velocity decoder", "error to the float maps", "distance / float decoder"], rows))
    print(f"\n{len(real)} held-out maps, {arguments.maps} drawn, 95 %; {machine()}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
