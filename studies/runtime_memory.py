"""Memory of each runtime on files of several sizes: what ``memory needed`` in the deployment guide is made of.

``python studies/runtime_memory.py [PRESET ...] [--keep FOLDER]`` exports random weights of each preset's sizes in every
format, draws one pair with the bundle's own generate.py in a process and with one thread, and prints Markdown: size of
a runtime's files, peak memory, and the line through them beside the one that the guide goes by.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ubq.bench.subject import random_generator
from ubq.bench.timing import markdown
from ubq.config.load import load_config
from ubq.data.normalization import for_config
from ubq.export.bundle.folder import Bundle, make_bundle, model_files
from ubq.export.files import export_generator
from ubq.export.runtimes import RUNTIMES, Runtime
from ubq.model import ModelSizes
from ubq.quant.generator import Recipe

PRESETS = ("demo", "curvefault-a-edge", "curvefault-a-base")


def random_bundle(preset: str, folder: Path) -> Bundle:
    """Every format of a preset's sizes; the weights are random."""
    config = load_config(preset, isolated=True).config
    sizes = ModelSizes.from_dict(config.model.model_dump())
    distilled = config.distill.steps > 0
    recipe = Recipe(sizes, for_config(config.data), config.quant, config.sampling, distilled)
    files = export_generator(
        random_generator(recipe), recipe, folder, preset, family=config.data.family, formats=tuple(RUNTIMES)
    )
    return make_bundle(files.manifest.parent)


def peak_mb(bundle: Bundle, runtime: Runtime) -> int:
    """Most memory of a process that loads the files and draws one pair."""
    script = [sys.executable, "-I", "generate.py", "--json", "--threads", "1", "--runtime", runtime.name]
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run([*script, "--out", out], cwd=bundle.folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{runtime.name}: {done.stderr[-1500:]}")
    return int(json.loads(done.stdout)["peak_memory_mb"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--keep", type=Path, help="folder to leave the files in")
    arguments = parser.parse_args()
    measured: dict[Runtime, list[tuple[str, float, int]]] = {runtime: [] for runtime in RUNTIMES.values()}
    with tempfile.TemporaryDirectory() as temporary:
        for preset in arguments.presets:
            bundle = random_bundle(preset, (arguments.keep or Path(temporary)) / preset)
            for runtime, points in measured.items():
                names = model_files(preset, runtime)
                size = sum((bundle.folder / name).stat().st_size for name in names) / 1e6
                points.append((preset, size, peak_mb(bundle, runtime)))
    rows = [
        [f"{r.title} {version(r.module)}", preset, f"{size:.0f}", str(peak), str(r.memory_mb(round(size * 1e6)))]
        for r, points in measured.items()
        for preset, size, peak in points
    ]
    print(markdown(["runtime", "preset", "files MB", "peak MB", "guide says MB"], rows))
    for runtime, points in measured.items():
        if len(points) > 1:
            slope, base = np.polyfit([size for _p, size, _m in points], [peak for _p, _s, peak in points], 1)
            print(f"\n{runtime.title}: {base:.0f} MB + {slope:.2f} x the files", end="")
    print()


if __name__ == "__main__":
    main()
