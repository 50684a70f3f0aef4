"""Runs an exported TorchScript file in a process of its own, as a user would: with torch and without ubq.

Started as ``python -I probe.py JOB.json``; imports nothing of ubq, and refuses to. Reads the job, writes
``result.json`` and ``generated.pt`` (tensors by name) into the job's folder, and prints one line after
each batch. The job's keys:

    file, reference   the int8 file and the float file written by the same code (reference may be null)
    folder            where to write
    engine, threads   integer engine, CPU threads (0: torch's own choice)
    count, batch      pairs to generate, pairs in one call
    modelled          of the pairs, how many also have their gathers modelled; 0: the file cannot
    held_out_latents  whose gathers are decoded for the picture
    maps              velocity maps to generate in all, the pairs' among them, and as many decoded from plain noise
    steps             sampling steps
    latent            length of the latent
    seed
    velocity_shape, seismic_shape       of one sample
    velocity_limits   [lowest, highest] m/s allowed
    alphas_cumprod    of the training process: noises latents for the comparison of U-Net steps
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
import traceback
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

STEPS_COMPARED = 5
"""Times, spread over the sampler's, at which one U-Net evaluation is compared."""
TIMED_CALLS = 3


class _NoUbq(MetaPathFinder):
    """The exported file must work where ubq was never installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "ubq":
            raise ImportError("the exported file may not need ubq")


class Probe:
    """One examination; ``result`` fills up as it goes, so that a crash leaves what was found."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.result: dict[str, Any] = {"checks": {}, "problems": [], "timing": {}, "unet_steps": {}}
        self.tensors: dict[str, Any] = {}
        self.done = 0

    def run(self) -> None:
        job, timing = self.job, self.result["timing"]
        start = time.perf_counter()
        import torch

        timing["import_seconds"] = time.perf_counter() - start
        torch.backends.quantized.engine = job["engine"]
        if job["threads"]:
            torch.set_num_threads(job["threads"])
        torch.set_grad_enabled(False)
        self.result["torch"] = torch.__version__
        start = time.perf_counter()
        model = torch.jit.load(job["file"], map_location="cpu")
        timing["load_seconds"] = time.perf_counter() - start
        self._calls(model)
        self._generate(model)
        if job["held_out_latents"]:
            latents = torch.tensor(job["held_out_latents"])[:, None]
            self.tensors["held_out_seismic"] = model.decode(latents)[1]
        if job["modelled"]:
            self._model_gathers(model)
        timing["peak_memory_bytes"] = _peak_memory()
        if job["reference"]:
            inputs = self._unet_inputs(model)
            outputs = [_unet(model, x, t, job["batch"]) for t, x in inputs]
            del model
            self._compare(torch.jit.load(job["reference"], map_location="cpu"), inputs, outputs)

    def check(self, name: str, passed: bool, problem: str) -> None:
        """Record a check; it stays failed once it has failed."""
        self.result["checks"][name] = bool(passed) and self.result["checks"].get(name, True)
        if not passed and problem not in self.result["problems"]:
            self.result["problems"].append(problem)

    def _calls(self, model: Any) -> None:
        """``model(2)``: shapes, and whether calls draw anew and repeat when seeded; ``model(1)`` timed."""
        import torch

        torch.manual_seed(self.job["seed"])
        first = model(2)
        second = model(2)
        torch.manual_seed(self.job["seed"])
        again = model(2)
        shapes = [list(x.shape) for x in first]
        expected = [[2, *self.job["velocity_shape"]], [2, *self.job["seismic_shape"]]]
        self.check("shapes", shapes == expected, f"model(2) gives shapes {shapes}, not {expected}")
        differ = all(not torch.equal(a, b) for a, b in zip(first, second))  # noqa: B905 (a pair each)
        inside = not torch.equal(first[0][0], first[0][1])
        self.check("calls_differ", differ and inside, "two calls, or two samples of one call, are the same")
        repeat = all(torch.equal(a, b) for a, b in zip(first, again))  # noqa: B905
        self.check("seed_repeats", repeat, "two calls after the same torch.manual_seed differ")
        for pair in (first, second):
            self._sound(*pair)
        seconds = []
        for _ in range(TIMED_CALLS):
            start = time.perf_counter()
            model(1)
            seconds.append(time.perf_counter() - start)
        self.result["timing"]["seconds_per_pair"] = statistics.median(seconds)

    def _model_gathers(self, model: Any) -> None:
        """The gathers that the file itself models for the first maps, and its pairs of one call."""
        import torch

        if not all(self.result["checks"].get(name) for name in ("finite", "velocity_range")):
            return  # a wild map would blow the wave equation up
        torch.manual_seed(self.job["seed"])
        maps = model(1)[0]
        torch.manual_seed(self.job["seed"])
        velocity, seismic = model.simulate(1)
        same = torch.equal(velocity, maps) and torch.equal(seismic, model.gathers(maps))
        self.check("simulate", same, "simulate(1) is not a map of model(1) with the gathers of that map")
        rows = self.tensors["velocity"][: self.job["modelled"]]
        start = time.perf_counter()
        gathers = []
        for row in rows:
            gathers.append(model.gathers(row[None]))
            self._say(1)
        self.result["timing"]["seconds_per_gather"] = (time.perf_counter() - start) / len(rows)
        self.tensors["gathers"] = torch.cat(gathers)
        self._sound(rows, self.tensors["gathers"])

    def _sound(self, velocity: Any, seismic: Any) -> None:
        import torch

        finite = bool(torch.isfinite(velocity).all() and torch.isfinite(seismic).all())
        self.check("finite", finite, "a generated value is not finite")
        low, high = self.job["velocity_limits"]
        inside = bool((velocity >= low).all() and (velocity <= high).all())
        span = f"{float(velocity.min()):.0f} to {float(velocity.max()):.0f} m/s"
        self.check("velocity_range", inside, f"velocities of {span} leave the allowed {low:.0f} to {high:.0f} m/s")

    def _generate(self, model: Any) -> None:
        """The pairs that every figure is taken from, and maps decoded from plain noise."""
        import torch

        job = self.job
        generator = torch.Generator().manual_seed(job["seed"])
        parts: dict[str, list[Any]] = {}
        for start in range(0, job["count"], job["batch"]):
            size = min(job["batch"], job["count"] - start)
            x_T = torch.randn(size, 1, job["latent"], generator=generator)
            step_noise = torch.randn(max(job["steps"] - 1, 0), size, 1, job["latent"], generator=generator)
            latent = model.sample(x_T, step_noise, job["steps"])
            velocity, seismic = model.decode(latent)
            self._sound(velocity, seismic)
            noise = torch.randn(latent.shape, generator=generator)
            row = {"x_T": x_T, "step_noise": step_noise.transpose(0, 1), "latent": latent}
            row |= {"velocity": velocity, "seismic": seismic, "noise_velocity": model.decode(noise)[0]}
            for name, value in row.items():
                parts.setdefault(name, []).append(value)
            self._say(size)
        more = {"velocity": [*parts["velocity"]], "noise_velocity": [*parts["noise_velocity"]]}
        for start in range(job["count"], job["maps"], job["batch"]):
            size = min(job["batch"], job["maps"] - start)
            x_T = torch.randn(size, 1, job["latent"], generator=generator)
            step_noise = torch.randn(max(job["steps"] - 1, 0), size, 1, job["latent"], generator=generator)
            more["velocity"].append(model.decode(model.sample(x_T, step_noise, job["steps"]))[0])
            more["noise_velocity"].append(model.decode(torch.randn(x_T.shape, generator=generator))[0])
            self._say(size)
        self.tensors = {name: torch.cat(values) for name, values in parts.items()}
        self.tensors |= {f"all_{name}": torch.cat(values) for name, values in more.items()}

    def _unet_inputs(self, model: Any) -> list[tuple[int, Any]]:
        """(time, latents noised to that time) for times spread over the sampler's."""
        import torch

        first = model.sampler(self.job["steps"])
        times = model.sampler.times[first : first + self.job["steps"]].tolist()
        chosen = sorted({round(i * (len(times) - 1) / (STEPS_COMPARED - 1)) for i in range(STEPS_COMPARED)})
        clean, noise = self.tensors["latent"], self.tensors["x_T"]
        cumprod = torch.tensor(self.job["alphas_cumprod"], dtype=torch.float64)
        inputs = []
        for t in (times[i] for i in chosen):
            inputs.append((t, (cumprod[t].sqrt() * clean + (1 - cumprod[t]).sqrt() * noise).float()))
        return inputs

    def _compare(self, reference: Any, inputs: list[tuple[int, Any]], outputs: list[Any]) -> None:
        """The float model from the same latents and start noise."""
        import torch

        job, batch = self.job, self.job["batch"]
        error = size = 0.0
        for (t, x), result in zip(inputs, outputs):  # noqa: B905
            expected = _unet(reference, x, t, batch)
            apart, norm = float((result - expected).double().norm()), float(expected.double().norm())
            self.result["unet_steps"][str(t)] = apart / norm if norm else None
            error, size = error + apart**2, size + norm**2
        self.result["unet_step"] = (error / size) ** 0.5 if size else None
        tensors = self.tensors
        parts: dict[str, list[Any]] = {}
        for rows in torch.arange(job["count"]).split(batch):
            velocity, seismic = reference.decode(tensors["latent"][rows])
            latent = reference.sample(tensors["x_T"][rows], tensors["step_noise"][rows].transpose(0, 1), job["steps"])
            row = {"reference_velocity": velocity, "reference_seismic": seismic}
            row |= {"reference_latent": latent, "float_velocity": reference.decode(latent)[0]}
            for name, value in row.items():
                parts.setdefault(name, []).append(value)
            self._say(len(rows))
        tensors.update({name: torch.cat(values) for name, values in parts.items()})

    def _say(self, more: int) -> None:
        """That so many more maps, gathers or pairs of the reference are there."""
        job = self.job
        self.done += more
        total = job["maps"] + job["modelled"] + (job["count"] if job["reference"] else 0)
        print(f"{self.done} {total}", flush=True)


def _peak_memory() -> int:
    """Largest resident size of this process so far, bytes. ``ru_maxrss`` alone would count the parent's at the fork."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _unet(model: Any, x: Any, t: int, batch: int) -> Any:
    import torch

    return torch.cat([model.unet(part, torch.full((len(part),), t)) for part in x.split(batch)])


def main(job_path: str) -> None:
    """Do one job; a defect of the file ends up in ``result.json`` as ``error``."""
    sys.meta_path.insert(0, _NoUbq())
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    probe = Probe(job)
    try:
        probe.run()
    except Exception as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        probe.result["error"] = f"{type(error).__name__}: {last}"
        traceback.print_exc()
    loaded = any(name.partition(".")[0] == "ubq" for name in sys.modules)
    probe.check("without_ubq", not loaded, "the file imported ubq")
    folder = Path(job["folder"])
    if probe.tensors:
        import torch

        torch.save({name: x.contiguous() for name, x in probe.tensors.items()}, folder / "generated.pt")
    (folder / "result.json").write_text(json.dumps(probe.result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
