"""``python -m ubq.runtime FILE``: load an exported file, draw pairs, and print what came out as JSON.

For use in a process of its own: it shows that the file works with no more than its runtime.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np

from ubq.errors import UbqError
from ubq.runtime import load
from ubq.runtime.generator import Gathers, LoadedModel


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ubq.runtime", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gathers", choices=get_args(Gathers), default="wave")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--against", type=Path, help="pairs that another file drew, .npz: how far this file's are")
    options = parser.parse_args()
    try:
        started = time.perf_counter()
        generator = load(options.file, options.threads)
        loaded = time.perf_counter()
        velocity, seismic = generator.sample(options.count, options.steps, options.seed, gathers=options.gathers)
        drawn = time.perf_counter()
        again = generator.sample(options.count, options.steps, options.seed, gathers=options.gathers)
        apart = distances(generator, options.against, options.steps) if options.against else None
    except UbqError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    result = {
        "shapes": [list(velocity.shape), list(seismic.shape)],
        "finite": bool(np.isfinite(velocity).all() and np.isfinite(seismic).all()),
        "velocity_range": [float(velocity.min()), float(velocity.max())],
        "seed_repeats": bool(np.array_equal(velocity, again[0]) and np.array_equal(seismic, again[1])),
        "gathers": options.gathers,
        "torch_imported": "torch" in sys.modules,
        "load_seconds": loaded - started,
        "seconds_per_pair": (drawn - loaded) / options.count,
    }
    if apart is not None:
        result["apart"] = apart
    print(json.dumps(result))
    return 0


def distances(generator: LoadedModel, pairs: Path, steps: int) -> dict[str, float]:
    """How far a file's pairs are from another's, in relative L2.

    Latents are compared from the same noise and maps and gathers from the same latents, maps about their mean and
    gathers by the logarithm of their amplitudes.

    Args:
        generator: the file.
        pairs: of the other: x_T (B, 1, L), step_noise (S - 1, B, 1, L), latent (B, 1, L), velocity, seismic.
        steps: that they were drawn in; 0: the file's own.
    """
    with np.load(pairs) as other:
        latent = generator.sample_latents(other["x_T"], other["step_noise"], steps)
        velocity, seismic = generator.decode(other["latent"])
        middle = other["velocity"].mean()
        found = {
            "latent": (latent, other["latent"]),
            "velocity": (velocity - middle, other["velocity"] - middle),
            "seismic": tuple(np.copysign(np.log1p(np.abs(x)), x) for x in (seismic, other["seismic"])),
        }
    return {name: float(np.linalg.norm(own - its) / np.linalg.norm(its)) for name, (own, its) in found.items()}


if __name__ == "__main__":
    sys.exit(main())
