"""How far does the seismic decoder's E fall with the number of modelled pairs?

``python studies/modelled_pairs.py RUN_FOLDER [--counts 0 500 1500] [--set KEY=VALUE ...] [--maps 64]``

RUN_FOLDER is a run whose U-Net is trained (``ubq run --until distill``, or ``train-diffusion`` without distillation).
For each number it goes on with ``ubq run --until train-seismic``, so that a larger number begins with the pairs of
a smaller one, and measures the float decoder against the wave equation over the decoded map: on the encoder's latents
of held-out maps, and on latents that the sampler draws from noise of its own. Prints Markdown; a seed's spread is seen
by running it on runs of several seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ubq.acquisition import acquisition_for
from ubq.bench.timing import machine, markdown
from ubq.config.load import read_frozen
from ubq.config.schema import MAP_SHAPE
from ubq.metrics import physics_errors, physics_reference
from ubq.model.parts import DEPLOYED, SEISMIC, UNET
from ubq.model.wave import WaveEquation
from ubq.stages.floatmodel import normalization_of, trained_parts
from ubq.stages.maps import open_latents, open_maps, seismic_shape
from ubq.stages.model_pairs import sampled_latents
from ubq.stages.paths import RunPaths

CPU = torch.device("cpu")
FRESH_SEED = 7_000_003
"""Of the sampler's noise: no run's own."""


class Reference:
    """Latents that no training has seen, with the gathers of their decoded maps and the direct waves of those."""

    def __init__(self, paths: RunPaths, latents: Tensor) -> None:
        config = read_frozen(paths.config)
        acquisition = acquisition_for(MAP_SHAPE, seismic_shape(config))
        assert acquisition is not None
        solve = WaveEquation(**asdict(acquisition))
        parts = trained_parts(config, paths, DEPLOYED["velocity"], CPU)
        with torch.no_grad():
            decoded = parts["velocity_decoder"](parts["velocity_projector"](latents))
        velocity = normalization_of(config, paths).unvelocity(decoded).numpy()
        self.latents = latents
        self.modelled, self.direct = physics_reference(velocity, lambda maps: solve(torch.from_numpy(maps)).numpy())

    def errors(self, decode: torch.nn.Sequential, paths: RunPaths) -> np.ndarray:
        """E of the decoder's gathers, (N,)."""
        return physics_errors(gathers_of(decode, self.latents, paths), self.modelled, self.direct)


@torch.no_grad()
def gathers_of(decode: torch.nn.Sequential, latents: Tensor, paths: RunPaths) -> np.ndarray:
    """Physical amplitudes (N, S, T, R)."""
    return normalization_of(read_frozen(paths.config), paths).unseismic(decode(latents)).numpy()


def interval(errors: np.ndarray) -> str:
    """Mean, and half the width of its 95 % interval over the maps."""
    return f"{errors.mean():.2f} ± {1.96 * errors.std(ddof=1) / len(errors) ** 0.5:.2f}"


def relative(outputs: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Relative L2 of each gather, (N,)."""
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(outputs, references, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 500, 1500])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further keys, as train.seismic.*")
    parser.add_argument("--maps", type=int, default=64, help="of either kind that E is measured on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = RunPaths(arguments.run)
    config = read_frozen(paths.config)
    ranges = normalization_of(config, paths)
    _train, held_out = open_maps(config, paths, ranges, CPU, seismic=True)
    encoded = open_latents(paths, CPU, (_train, held_out)).val[: arguments.maps]
    unet = trained_parts(config, paths, UNET, CPU, student=True)["unet"]
    fresh = config.model_copy(update={"seed": FRESH_SEED})
    kinds = [Reference(paths, z) for z in (encoded, sampled_latents(fresh, paths, unet, arguments.maps, CPU))]
    real = ranges.unseismic(held_out.seismic(torch.arange(len(encoded)))).numpy()

    rows = []
    for count in arguments.counts:
        settings = [f"train.seismic.modelled_pairs={count}", *arguments.set]
        command = [
            sys.executable,
            "-m",
            "ubq",
            "run",
            "--config",
            str(paths.config),
            "--until",
            "train-seismic",
            "--yes",
        ]
        subprocess.run([*command, *(word for each in settings for word in ("--set", each))], check=True)
        parts = trained_parts(read_frozen(paths.config), paths, SEISMIC, CPU)
        decode = torch.nn.Sequential(*(parts[name] for name in SEISMIC))
        encoder_errors = relative(gathers_of(decode, encoded, paths), real)
        rows.append(
            [f"{count:,}", *(interval(kind.errors(decode, paths)) for kind in kinds), f"{encoder_errors.mean():.3f}"]
        )
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    head = ["modelled pairs", "E, encoder's latents", "E, sampler's latents", "relative L2 to real held-out gathers"]
    print(markdown(head, rows), f"\n\n{arguments.maps} maps of each kind; 1 thread; {machine()}")


if __name__ == "__main__":
    main()
