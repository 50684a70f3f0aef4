"""The file's own wave equation against deepwave: how far apart are their gathers, and their times?

``python studies/wave_equation.py [--maps NAME=FILE.npy ...] [--count 64] [--map-batch 16] [--rounds 3]`` prints
Markdown tables. Beside the velocity files that are named, synthetic CurveFault-A maps are taken. Needs deepwave.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ubq.acquisition import SOURCES, Acquisition
from ubq.bench.timing import machine, markdown, take_turns
from ubq.data.forward import forward_model
from ubq.data.synthetic import synthesise_velocity
from ubq.metrics import physics_errors, physics_reference
from ubq.model.wave import WaveEquation
from ubq.runtime import wave

ACQUISITION = asdict(Acquisition(SOURCES, 1000))
MEMORY = """
import sys, numpy as np, torch
from ubq.jobs.machine import peak_memory
model, map = torch.jit.load(sys.argv[1]), torch.from_numpy(np.load(sys.argv[2]))
before = peak_memory()
model(map)
print((peak_memory() - before) / 2**20)
"""


def reference(velocity: np.ndarray) -> np.ndarray:
    """deepwave's gathers, map by map: in batches it is slower."""
    return np.stack([forward_model(each) for each in velocity])


def apart(name: str, velocity: np.ndarray, solve: torch.jit.ScriptModule) -> list[str]:
    """One row: relative L2 and E of the solver's gathers to deepwave's, mean and worst."""
    expected, direct = physics_reference(velocity, reference)
    modelled = solve(torch.from_numpy(velocity)).numpy()
    errors = physics_errors(modelled, expected, direct)
    relative = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(modelled, expected, strict=True)]
    return [
        name, f"{len(velocity)}", f"{velocity.min():.0f} to {velocity.max():.0f}",
        f"{100 * np.mean(relative):.3f}", f"{100 * np.max(relative):.3f}",
        f"{errors.mean():.4f}", f"{errors.max():.4f}",
    ]  # fmt: skip


def memory(solve: torch.jit.ScriptModule, velocity: np.ndarray, folder: Path) -> float:
    """MB that the first gather of a fresh process adds to what it holds."""
    torch.jit.save(solve, str(folder / "wave.pt"))
    np.save(folder / "map.npy", velocity[:1])
    command = [sys.executable, "-c", MEMORY, str(folder / "wave.pt"), str(folder / "map.npy")]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="*", default=[], metavar="NAME=FILE", help="velocity files, (N, 1, 70, 70)")
    parser.add_argument("--count", type=int, default=64, help="maps of each")
    parser.add_argument("--map-batch", type=int, default=16, help="maps of the longer timed call")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    solve, in_numpy = torch.jit.script(WaveEquation(**ACQUISITION)), wave.WaveEquation(**ACQUISITION)
    sets = {}
    for argument in arguments.maps:
        name, _, file = argument.partition("=")
        sets[name] = np.array(np.load(file, mmap_mode="r")[: arguments.count], np.float32)
    sets["curvefault-a, synthetic"] = synthesise_velocity("curvefault-a", arguments.count, 0)
    rows = [apart(name, velocity, solve) for name, velocity in sets.items()]
    print(markdown(["maps", "of them", "m/s", "relative L2, %", "worst", "E", "worst"], rows), "\n")

    some = next(iter(sets.values()))
    timed = []
    for maps in (some[:1], some[: arguments.map_batch]):
        calls = {
            "deepwave": lambda maps=maps: reference(maps),
            "TorchScript": lambda maps=maps: solve(torch.from_numpy(maps)),
            "numpy": lambda maps=maps: in_numpy(maps),
        }
        seconds = {name: timing.median for name, timing in take_turns(calls, arguments.rounds).items()}
        timed.append([str(len(maps)), *(f"{s:.2f} ({s / seconds['deepwave']:.2f} x)" for s in seconds.values())])
    print(markdown(["maps in a call", "deepwave, s", "TorchScript", "numpy"], timed), "\n")
    with tempfile.TemporaryDirectory() as folder:
        print(f"{memory(solve, some, Path(folder)):.0f} MB for one gather in TorchScript; 1 thread; {machine()}")


if __name__ == "__main__":
    main()
