#!/usr/bin/env python3
"""Draw pairs of a velocity map and its seismic shot gathers from the model beside this script.

    python generate.py --count 2

Writes velocity.npy (N, 1, 70, 70) in m/s, seismic.npy (N, 5, 1000, 70), pairs.json, which says how they were made, and,
where matplotlib is installed, pairs.png. Each gather is what the wave equation gives for its map; with
--gathers decoder it is the model's quicker guess, which knows little more than the direct wave.
Needs what one of the requirements-*.txt beside it lists, and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

FOLDER = Path(__file__).resolve().parent
MOST_DRAWN = 4
"""Pairs in the picture."""


class TorchScript:
    """NAME.pt in PyTorch; the sampling loop is in the file."""

    def __init__(self, file: Path, threads: int, backend: str) -> None:
        import torch

        # before the file is loaded: PyTorch starts with another engine on a Pi, which is several times as slow
        supported = torch.backends.quantized.supported_engines
        exact = beside("processor").exact_engine(backend)
        chosen = next((name for name in (exact, "qnnpack") if name in supported), None)
        if chosen:
            torch.backends.quantized.engine = chosen
        if threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._tensor = torch.from_numpy
        self._model = torch.jit.load(str(file))

    def pair(self, x_T: Any, step_noise: Any, steps: int, solver: Any) -> tuple[Any, Any]:
        """Noise (1, 1, L) and (steps-1, 1, 1, L) -> velocity (1, 1, 70, 70) in m/s, seismic (1, 5, 1000, 70).

        ``solver`` models the gathers of maps; None: the decoder's gathers.
        """
        latent = self._model.sample(self._tensor(x_T), self._tensor(step_noise), steps)
        if solver is not None:
            velocity = self._model.decode_velocity(latent).numpy()
            return velocity, solver(velocity)
        velocity, seismic = self._model.decode(latent)
        return velocity.numpy(), seismic.numpy()


class Stepping:
    """A runtime whose file holds one U-Net step and the decoders: the sampling loop is here."""

    tables: dict[str, Any]

    def unet(self, x: Any, time: Any) -> Any:
        """Noisy latent (1, 1, L), time step (1,) -> prediction (1, 1, L)."""
        raise NotImplementedError

    def decode(self, latent: Any) -> tuple[Any, Any]:
        """Latent (1, 1, L) -> velocity in [-1, 1], gather on its logarithmic scale."""
        raise NotImplementedError

    def pair(self, x_T: Any, step_noise: Any, steps: int, solver: Any) -> tuple[Any, Any]:
        """As TorchScript's."""
        import numpy as np

        tables, offered = self.tables, self.tables["steps"]
        first = sum(offered[: offered.index(steps)])  # the tables of all offered counts lie one below the other
        coefficients = np.asarray(tables["coefficients"], np.float32)
        x, x0_before = x_T, np.zeros_like(x_T)
        for i in range(steps):
            c = coefficients[first + i]
            x0 = np.clip(c[0] * x + c[1] * self.unet(x, np.array([tables["times"][first + i]])), -1.0, 1.0)
            x = c[2] * x + c[3] * x0 + c[4] * x0_before
            if tables["stochastic"] and i < steps - 1:
                x = x + c[5] * step_noise[i]
            x0_before = x0
        velocity, seismic = self.decode(x)
        (half, middle), (log_half, log_middle) = tables["velocity"], tables["log_amplitude"]
        velocity = velocity * np.float32(half) + np.float32(middle)
        if solver is not None:
            return velocity, solver(velocity)
        log = seismic * np.float32(log_half) + np.float32(log_middle)
        return velocity, np.copysign(np.expm1(np.abs(log)), log)


class Onnx(Stepping):
    """NAME.onnx and NAME.decoders.onnx in ONNX Runtime."""

    def __init__(self, file: Path, threads: int, _backend: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        if not beside("processor").adds_in_32_bits():
            options.add_session_config_entry("session.x64quantprecision", "1")
        cpu = ["CPUExecutionProvider"]
        self._unet = onnxruntime.InferenceSession(str(file), options, cpu)
        self._decoders = onnxruntime.InferenceSession(str(file.with_suffix(".decoders.onnx")), options, cpu)
        self.tables = json.loads(self._unet.get_modelmeta().custom_metadata_map["ubq.tables"])
        self._inputs = [i.name for i in self._unet.get_inputs()]

    def unet(self, x: Any, time: Any) -> Any:
        inputs = {"x": x, "time": time}
        return self._unet.run(None, {name: inputs[name] for name in self._inputs})[0]

    def decode(self, latent: Any) -> tuple[Any, Any]:
        velocity, seismic = self._decoders.run(None, {"latent": latent})
        return velocity, seismic


class Executorch(Stepping):
    """NAME.pte in ExecuTorch."""

    def __init__(self, file: Path, threads: int, _backend: str) -> None:
        import torch
        from executorch.runtime import Runtime

        if threads:
            torch.set_num_threads(threads)
        self._tensor = torch.from_numpy
        self._program = Runtime.get().load_program(file.read_bytes())
        self.tables = json.loads(bytes(self._program.load_method("ubq_tables").execute([])[0].numpy()))
        self._unet, self._decoders = self._program.load_method("unet"), self._program.load_method("decoders")

    def unet(self, x: Any, time: Any) -> Any:
        return self._unet.execute([self._tensor(x), self._tensor(time)])[0].numpy().copy()

    def decode(self, latent: Any) -> tuple[Any, Any]:
        velocity, seismic = self._decoders.execute([self._tensor(latent)])
        return velocity.numpy().copy(), seismic.numpy().copy()


RUNTIMES: dict[str, tuple[Any, str, str]] = {
    "onnx": (Onnx, ".onnx", "onnxruntime"),
    "torchscript": (TorchScript, ".pt", "torch"),
    "executorch": (Executorch, ".pte", "executorch"),
}
"""Name -> class, suffix of its file, module that it needs; the one to prefer first."""


def main() -> None:
    options = read_options()
    facts = read_manifest()
    if options.steps and options.steps not in facts["step_counts"]:
        fail(
            f"the model does not offer {options.steps} steps",
            f"use --steps {' or '.join(map(str, facts['step_counts']))}",
        )
    name = options.runtime or choose_runtime(facts)
    kind, suffix, module = RUNTIMES[name]
    file = FOLDER / (facts["name"] + suffix)
    if not file.is_file():
        fail(f"{file} does not exist", "copy it here, or choose another --runtime")
    if importlib.util.find_spec(module) is None or importlib.util.find_spec("numpy") is None:
        alone = "--no-deps " if name == "executorch" else ""  # its list is whole; pip finds no wheel of all it asks for
        fail(
            f"{sys.executable} lacks {module} or numpy",
            f"{sys.executable} -m pip install {alone}-r {FOLDER}/requirements-{name}.txt",
        )
    solver = load_solver(facts) if options.gathers == "wave" else None
    pair_noise = beside("noise").pair_noise
    started = time.perf_counter()
    model = kind(file, options.threads, facts["backend"])
    load_seconds = time.perf_counter() - started
    print(f"{file.name}: loaded in {load_seconds:.1f} s", file=sys.stderr)

    import numpy as np

    options.out.mkdir(parents=True, exist_ok=True)
    # written pair by pair, so that memory does not grow with --count
    velocity = new_array(options.out / "velocity.npy", (options.count, *facts["velocity_shape"]))
    seismic = new_array(options.out / "seismic.npy", (options.count, *facts["seismic_shape"]))
    steps = options.steps or facts["steps"]
    seconds = []
    for i in range(options.count):
        started = time.perf_counter()
        noise = pair_noise(options.seed, [i], steps, facts["model"]["encoder_dim"], facts["solver"] == "ddpm")
        velocity[i : i + 1], seismic[i : i + 1] = model.pair(*noise, steps, solver)
        seconds.append(time.perf_counter() - started)
        print(f"pair {i + 1} of {options.count}: {seconds[-1]:.2f} s", file=sys.stderr)
    velocity.flush()
    seismic.flush()
    if not (np.isfinite(velocity).all() and np.isfinite(seismic).all()):
        fail("the model gave values that are not finite", "report it with the library's version")
    peak = peak_memory_mb()
    picture = draw(options.out / "pairs.png", velocity[:MOST_DRAWN], seismic[:MOST_DRAWN], facts["normalization"])
    result = {
        "runtime": name,
        "versions": {m: version(m) for m in (module, "numpy")},
        "count": options.count,
        "steps": steps,
        "seed": options.seed,
        "gathers": options.gathers,
        "acquisition": facts["acquisition"] if solver else None,
        "load_seconds": round(load_seconds, 3),
        "first_pair_seconds": round(seconds[0], 3),
        # the first pair also pays for what the runtime does once
        "seconds_per_pair": round(statistics.median(seconds[1:] or seconds), 3),
        "peak_memory_mb": peak,
        "velocity_range": [float(velocity.min()), float(velocity.max())],
        "files": [str(options.out / f) for f in ("velocity.npy", "seismic.npy", *([picture.name] if picture else []))],
    }
    (options.out / "pairs.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result) if options.json else "\n".join(result["files"]))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw pairs of velocity map and shot gathers.")
    parser.add_argument("--count", type=positive, default=1, help="pairs to draw (1)")
    parser.add_argument("--steps", type=natural, default=0, help="sampling steps that the model offers; 0: its default")
    parser.add_argument("--seed", type=natural, default=0, help="the same seed gives the same pairs (0)")
    parser.add_argument(
        "--gathers", choices=("wave", "decoder"), default="wave", help="by the wave equation (wave) or the decoder"
    )
    parser.add_argument("--out", type=Path, default=Path("pairs"), help="folder to write to (pairs)")
    parser.add_argument("--runtime", choices=list(RUNTIMES), help="default: the first that is installed")
    parser.add_argument("--threads", type=natural, default=0, help="CPU threads; 0: the runtime's own choice")
    parser.add_argument("--json", action="store_true", help="print one JSON object with times and memory")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("not below 0")
    return number


def read_manifest() -> dict[str, Any]:
    """manifest.json, and a look at whether the files are as long as it says."""
    try:
        facts = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"cannot read {FOLDER / 'manifest.json'}: {error}", "copy the whole folder again")
    for entry in facts["files"]:
        file = FOLDER / entry["name"]
        if file.is_file() and file.stat().st_size != entry["bytes"]:
            fail(f"{file} is not whole: {file.stat().st_size} of {entry['bytes']} bytes", "copy it again")
    return facts


def choose_runtime(facts: dict[str, Any]) -> str:
    """The first runtime whose file is here and whose module is installed; without one, the first with a file."""
    present = [
        name for name, (_kind, suffix, _module) in RUNTIMES.items() if (FOLDER / (facts["name"] + suffix)).is_file()
    ]
    if not present:
        fail(f"there is no model beside {FOLDER / 'generate.py'}", "copy the whole folder again")
    return next((name for name in present if importlib.util.find_spec(RUNTIMES[name][2])), present[0])


def load_solver(facts: dict[str, Any]) -> Any:
    """The wave equation, for this model's gathers."""
    if not facts.get("acquisition"):
        fail("gathers of this model's shape cannot be modelled", "use --gathers decoder")
    return beside("wave_equation").WaveEquation(**facts["acquisition"])


def beside(name: str) -> Any:
    """A module beside this script: NAME.py, one of ubq's own."""
    file = FOLDER / f"{name}.py"
    if not file.is_file():
        fail(f"{file} does not exist", "copy the whole folder again")
    # by its path: an isolated Python (-I) does not look beside the script
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def new_array(path: Path, shape: tuple[int, ...]) -> Any:
    """A float32 .npy file on disk, to be filled."""
    import numpy as np

    return np.lib.format.open_memmap(path, "w+", np.float32, shape)


def draw(path: Path, velocity: Any, seismic: Any, ranges: dict[str, float]) -> Path | None:
    """Velocity maps above the gathers of their middle shots; None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return None
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(velocity)
    figure = Figure(figsize=(2.6 * count + 1, 6), layout="constrained")
    FigureCanvasAgg(figure)  # no display needed
    axes = figure.subplots(2, count, squeeze=False)
    clip = float(np.percentile(np.abs(seismic), 95)) or 1.0
    for i in range(count):
        low, high = ranges["velocity_min"], ranges["velocity_max"]
        image = axes[0, i].imshow(velocity[i, 0], cmap="viridis", vmin=low, vmax=high, extent=(0, 0.7, 0.7, 0))
        shot = seismic[i, seismic.shape[1] // 2]
        axes[1, i].imshow(shot, cmap="gray", vmin=-clip, vmax=clip, aspect="auto", extent=(0, 0.7, len(shot) / 1000, 0))
        axes[1, i].set_xlabel("offset, km")
    axes[0, 0].set_ylabel("depth, km")
    axes[1, 0].set_ylabel("time, s")
    figure.colorbar(image, ax=list(axes[0]), label="m/s")
    figure.savefig(path, dpi=110)
    return path


def peak_memory_mb() -> int | None:
    """Most memory this process has held, MB; None where /proc does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    except (OSError, IndexError, ValueError):
        return None


def fail(message: str, fix: str) -> NoReturn:
    sys.exit(f"generate.py: {message}\n  {fix}")


if __name__ == "__main__":
    main()
