"""Instructions for one pair, and for one modelled gather, on emulated Raspberry Pis, in every runtime of a bundle.

``python studies/instructions.py BUNDLE_FOLDER [--only pairs|gathers] [--runtime NAME] [--out REPORT.json]``

A proxy for time, not time: an instruction may take a fraction of a cycle or wait for memory. The estimate beside it is
instructions / (clock x 1 instruction a cycle). The bundle's own generate.py draws one pair with the decoder's gather
and then three; half of the difference is a pair, without imports and loading. A gather is what a second one adds to the
first, of a map whose velocity grows from 2,000 to 4,000 m/s. Needs
qemu-aarch64 with plugins (Debian's qemu-user) and a C compiler, and what ``make test-aarch64`` sets up.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ubq.bench.timing import markdown
from ubq.export.runtimes import EXECUTORCH, runtimes_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "aarch64"))
from emulated_pi import BOARDS, Board, EmulatedPi

PLUGIN = Path(__file__).with_name("instructions") / "count.c"
QEMU = "qemu-aarch64"
FEW, MANY = 1, 3
MAP = "np.linspace(2000, 4000, 70, dtype=np.float32)[None, None, :, None].repeat(70, 3)"
GATHERS = {
    "numpy": f"""
import json, runpy, sys
import numpy as np
solve = runpy.run_path("wave_equation.py")["WaveEquation"](**json.load(open("manifest.json"))["acquisition"])
for _ in range(int(sys.argv[1])):
    solve({MAP})
""",
    "torchscript": f"""
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
model = torch.jit.load(json.load(open("manifest.json"))["name"] + ".pt")
for _ in range(int(sys.argv[1])):
    model.gathers(torch.from_numpy({MAP}))
""",
}
"""Solver -> a program that models so many gathers."""


def counted(pi: EmulatedPi, plugin: Path, board: Board, bundle: Path, runtime: str, pairs: int) -> int:
    """Instructions of a whole run of generate.py."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["generate.py", "--count", str(pairs), "--runtime", runtime, "--threads", "1", "--out", out]
        arguments += ["--gathers", "decoder"]
        return counted_run(pi, plugin, board, bundle, runtime, arguments)


def counted_run(
    pi: EmulatedPi, plugin: Path, board: Board, bundle: Path, runtime: str, arguments: Sequence[str]
) -> int:
    """Instructions of a whole run of Python in the bundle's folder."""
    done = pi.run(
        board, *arguments, cwd=bundle, qemu=[QEMU, "-plugin", str(plugin)], executorch=runtime == EXECUTORCH.name
    )
    match = re.search(r"instructions executed: (\d+)", done.stderr)
    if done.returncode or not match:
        raise SystemExit(f"{runtime} on {board.name} failed: {done.stderr[-1500:]}")
    return int(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", choices=("pairs", "gathers"), help="default: both")
    parser.add_argument("--runtime", help="count its pairs alone; default: those of every runtime of the bundle")
    parser.add_argument("--out", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    for tool, package in ((QEMU, "qemu-user"), ("cc", "gcc")):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed (apt install {package})")
    names = {file.name for file in arguments.bundle.iterdir()}
    model = json.loads((arguments.bundle / "manifest.json").read_text())["name"]
    pi = EmulatedPi()
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "count.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(plugin), str(PLUGIN)], check=True)
        for board in BOARDS:
            if arguments.only != "pairs":
                for solver, program in GATHERS.items():
                    one, two = (
                        counted_run(pi, plugin, board, arguments.bundle, "", ["-c", program, str(n)]) for n in (1, 2)
                    )
                    counts[board, f"{solver}, one gather"] = two - one
            for runtime in () if arguments.only == "gathers" else runtimes_of(model, names):
                if board.part in runtime.stops_on or arguments.runtime not in (None, runtime.name):
                    continue
                few, many = (counted(pi, plugin, board, arguments.bundle, runtime.name, pairs) for pairs in (FEW, MANY))
                counts[board, runtime.name] = (many - few) // (MANY - FEW)
    rows = [
        [f"{b.name} ({b.cpu}, {b.mhz / 1e3} GHz)", runtime, f"{count / 1e6:,.0f}", f"{count / 1e6 / b.mhz:.2f}"]
        for (b, runtime), count in counts.items()
    ]
    print(markdown(["board", "runtime", "million instructions", "estimated s"], rows))
    if arguments.out:
        written = [{"cpu": b.cpu, "runtime": r, "instructions": n} for (b, r), n in counts.items()]
        arguments.out.write_text(json.dumps({"model": model, "counts": written}, indent=2) + "\n")


if __name__ == "__main__":
    main()
