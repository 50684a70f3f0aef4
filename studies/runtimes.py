"""The files of one exported model against each other: are their pairs of equal quality?

``python studies/runtimes.py RUN_FOLDER [--exported FOLDER] [--pairs 256] [--physics 16]`` prints a Markdown table.
Every runtime starts from the same noise. A ratio to the TorchScript file stands with its paired bootstrap 95 %
interval; the runtimes are equal where it holds 1. ``ubq bench runtimes`` has their speed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ubq.config.load import read_frozen
from ubq.export.manifest import MANIFEST, read_manifest
from ubq.metrics import Interval, bootstrap_ratio, physics_errors, physics_reference, ratio_interval, sliced_wasserstein
from ubq.runtime import SUFFIXES, load
from ubq.runtime.wave import WaveEquation
from ubq.stages.maps import open_split
from ubq.stages.paths import RunPaths

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="finished run, whose held-out maps are used")
    parser.add_argument("--exported", type=Path, help="folder of the files; default: the run's")
    parser.add_argument("--pairs", type=int, default=256, help="pairs generated for the distribution distance")
    parser.add_argument("--physics", type=int, default=16, help="pairs forward modelled")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    config = read_frozen(paths.config)
    folder = arguments.exported or paths.exported
    facts = read_manifest(folder / MANIFEST)
    name, solver = facts["name"], WaveEquation(**facts["acquisition"])
    files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    real = open_split(config, paths, seismic=False).val
    maps = real.velocity_batch(range(len(real)))

    print("| runtime | distance to held-out maps | ratio | E of the decoder's gathers | ratio |\n|---|---|---|---|---|")
    first = None
    for file in (f for f in files if f.is_file()):
        drawn = load(file, config.threads).sample_pairs(arguments.pairs, seed=0, batch=BATCH, gathers="decoder")
        velocity = torch.from_numpy(drawn[0])
        pairs = [part[: arguments.physics] for part in drawn]
        errors = physics_errors(pairs[1], *physics_reference(pairs[0], solver))
        first = first or (velocity, errors)
        print(
            f"| {SUFFIXES[file.suffix]} | {sliced_wasserstein(velocity, maps).mean:.4f} "
            f"| {_text(ratio_interval(velocity, first[0], maps))} "
            f"| {errors.mean():.3f} | {_text(bootstrap_ratio(errors, first[1]))} |",
            flush=True,
        )


def _text(ratio: Interval) -> str:
    return f"{ratio.value:.3f} [{ratio.lower:.3f}, {ratio.upper:.3f}]"


if __name__ == "__main__":
    main()
