"""Runs in the Python of a Raspberry Pi, and in this machine's for comparison, in the folder of a bundle.

    python on_the_pi.py RUNTIME OUT

Draws two pairs with the bundle's generate.py, whose gathers the decoder makes, and models the gathers of maps.npy into
OUT/gathers.npy: TorchScript's by the file itself, the others' by wave_equation.py. For TorchScript also puts inputs.npz
(layer name -> input) through each integer layer under qnnpack, into OUT/layers.npz. OUT/result.json has seconds and
versions.
"""

import contextlib
import io
import json
import platform
import runpy
import sys
from pathlib import Path

import numpy as np

runtime, out = sys.argv[1], Path(sys.argv[2])
sys.argv = ["generate.py", "--count", "2", "--seed", "3", "--runtime", runtime, "--threads", "1", "--json"]
sys.argv += ["--out", str(out), "--gathers", "decoder"]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    runpy.run_path("generate.py", run_name="__main__")
result = json.loads(printed.getvalue())
result["machine"] = platform.machine()
processors = Path("/proc/cpuinfo").read_text().splitlines()
result["cpu_parts"] = sorted({line.split(":")[1].strip() for line in processors if "CPU part" in line})
maps = np.load("maps.npy")
if runtime == "torchscript":
    import torch

    result["engine"] = torch.backends.quantized.engine
    model = torch.jit.load(str(next(Path().glob("*.pt"))))
    layers = dict(model.named_modules())
    with torch.no_grad(), np.load("inputs.npz") as inputs:
        outputs = {name: layers[name](torch.from_numpy(inputs[name])).numpy() for name in inputs.files}
        gathers = model.gathers(torch.from_numpy(maps)).numpy()
    np.savez(out / "layers.npz", **outputs)
else:
    acquisition = json.loads(Path("manifest.json").read_text())["acquisition"]
    gathers = runpy.run_path("wave_equation.py")["WaveEquation"](**acquisition)(maps)
np.save(out / "gathers.npy", gathers)
(out / "result.json").write_text(json.dumps(result))
