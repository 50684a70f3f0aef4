"""Every check that needs a GPU, as one script: ``python tests/gpu/check_gpu.py --out DIR`` (``make test-gpu``).

Each part is a process of its own with a time limit; one that fails does not end the others. After each part
``DIR/results.json`` and ``DIR/tables.md`` are written anew, so that a run cut short leaves what it had. Needs no
network, no installation (``PYTHONPATH`` names this repository) and no exact PyTorch: what another one lacks is said.

``--pretend FOLDER`` runs the parts on the pretended device of that folder instead, to check the script itself and to
count kernels, host synchronisations and uploads on any machine; its times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("train-autoencoder", "train-seismic", "train-diffusion", "qat-decoders", "qat-diffusion")
FLOAT_PARITY, QAT_PARITY = 1e-3, 1e-1
"""Largest relative difference of a step's loss between CPU and GPU; in QAT single values round to the next level."""
MEASURED, PROFILED = 20, 3
"""Steps whose time is taken, steps that are profiled."""
TRAINED_STEPS = 6
FULL_PRESET = "curvefault-a"
Result = dict[str, Any]


# ---------------------------------------------------------------- what the parts share


def stage_config(preset: str, device: str, **changes: object) -> Any:
    """A preset on a device, nothing of this machine's configuration in it."""
    from ubq.config.load import load_config

    values: dict[str, object] = {"model.dim_mults": (1, 2)} if "pretend_gpu" in sys.modules else {}
    values |= {"device": device, "threads": 1, "run.log_every": 1, "run.checkpoint_minutes": 0.0, **changes}
    return load_config(preset, values, isolated=True).config


def few_steps(amp: bool) -> dict[str, object]:
    """Settings for a short training of every stage, which is stopped after ``TRAINED_STEPS`` before it ends."""
    changes: dict[str, object] = {}
    for table in ("train.autoencoder", "train.seismic", "train.diffusion", "qat.decoders", "qat.diffusion"):
        changes |= {f"{table}.steps": TRAINED_STEPS + 2, f"{table}.amp": amp, f"{table}.batch_size": 8}
    return {**changes, "run.checkpoint_steps": 2, "qat.calibration_batches": 2}


def ready(config: Any, folder: Path, stage: str) -> Any:
    """A run's folder in which ``stage`` can start: data of noise, random weights of the stages before."""
    from ubq.bench.train import NEEDS_SEISMIC, prepare, write_files
    from ubq.bench.train_process import stand_in
    from ubq.config.load import read_frozen
    from ubq.stages.paths import RunPaths

    data = folder / "data"
    if not data.exists():
        write_files(data, 1, 64)
    run = folder / f"{stage}-{config.device}".replace(":", "-")
    prepare(config, run, data, 1, stage in NEEDS_SEISMIC)
    paths = RunPaths(run)
    config = read_frozen(paths.config)
    stand_in(config.model_copy(update={"device": "cpu"}), paths, stage)
    return config, paths


def recorder(config: Any, paths: Any, stage: str, steps: int, saved: dict[int, Any] | None = None) -> Any:
    """A stage's context that keeps its rows, events and checkpoints in memory."""
    import torch

    from ubq.bench.train_process import Context

    class Recorder(Context):
        def __init__(self) -> None:
            super().__init__(config, paths, stage, steps, torch.device("cpu"))  # a clock that waits for no GPU
            self.rows: list[Result] = []
            self.events: list[Result] = []
            self.saved: dict[int, Any] = {} if saved is None else saved
            self.on_step: Callable[[int], None] = lambda step: None

        def progress(self, step: int, steps: int, **figures: float | str) -> None:
            super().progress(step, steps, **figures)
            if "val_loss" not in figures:
                self.on_step(step)

        def metrics(self, step: int, **figures: float | str) -> None:
            self.rows.append({"step": step, **figures})

        def event(self, kind: str, **fields: object) -> None:
            self.events.append({"event": kind, **fields})

        def save(self, step: int, payload: object) -> None:
            self.saved[step] = on_host(payload)

        def latest(self) -> Any:
            return (max(self.saved), copy.deepcopy(self.saved[max(self.saved)])) if self.saved else None

        def latest_step(self) -> int:
            return max(self.saved, default=0)

    return Recorder()


def on_host(value: Any) -> Any:
    """A copy of nested containers with every tensor on the CPU."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {k: on_host(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_host(v) for v in value)
    return copy.copy(value)


def differing(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested containers of tensors differ in a bit."""
    import torch

    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        return [p for k in a for p in differing(a[k], b[k], f"{path}.{k}")]
    if isinstance(a, list | tuple):
        return [p for i, (x, y) in enumerate(zip(a, b, strict=True)) for p in differing(x, y, f"{path}.{i}")]
    return [] if a == b else [path]


def run_stage(context: Any) -> None:
    """The stage itself; a stop that the context asked for is no failure."""
    from ubq.bench.train_process import STAGES as CLASSES
    from ubq.training.context import Stopped

    with contextlib.suppress(Stopped):
        CLASSES[context.stage].run(context)


def ubq(arguments: list[str], folder: Path, pretend: str, limit: float) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "ubq"]
    if pretend:
        command = [sys.executable, str(Path(pretend) / "run.py"), "--"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=limit, check=False
    )


def whole_run(name: str, folder: Path, pretend: str, limit: float, *more: str) -> Result:
    """``ubq run --preset NAME --device cuda``: exit code, seconds of each stage, marks."""
    error = ""
    try:
        done = ubq(["run", "--preset", name, "--device", "cuda", *more], folder, pretend, limit)
        code, error = done.returncode, done.stderr[-2000:]
    except subprocess.TimeoutExpired:
        code, error = None, f"not finished within {limit:.0f} s"
    run = folder / "runs" / name
    found: Result = {"exit": code, "stderr": error, "stages": {}, "marks": []}
    if (run / "state.json").is_file():
        state = json.loads((run / "state.json").read_text())
        found["stages"] = {s["name"]: [s["state"], round(s["seconds"], 1)] for s in state["stages"]}
    if (run / "exported_models" / "report.json").is_file():
        report = json.loads((run / "exported_models" / "report.json").read_text())
        found["marks"] = [[m["id"], m["passed"], m["value"], m["threshold"]] for m in report["marks"]]
    found["ok"] = code in (0, 5) and all(s[0] == "completed" for s in found["stages"].values())
    return found


# ---------------------------------------------------------------- parts


def environment(folder: Path, pretend: str, limit: float) -> Result:
    """What is there."""
    import platform

    import torch

    properties = torch.cuda.get_device_properties(0)
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError as error:
        return {"ok": False, "error": str(error)}
    return {
        "ok": True,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "gpu": properties.name,
        "memory_gb": round(total / 1e9, 1),
        "free_gb": round(free / 1e9, 1),
        "cores": os.cpu_count(),
    }


def smoke(folder: Path, pretend: str, limit: float) -> Result:
    """The smoke preset through every stage."""
    found = whole_run("smoke", folder, pretend, limit)
    checked = ubq(["doctor", "--json"], folder, pretend, 60)
    checks = json.loads(checked.stdout).get("checks", []) if checked.stdout.strip() else []
    found["doctor"] = [c["figure"] for c in checks if c["id"] == "environment.cuda"]
    return found


def parity(folder: Path, pretend: str, limit: float) -> Result:
    """The losses of every stage in float32, GPU against CPU, step by step."""
    found: Result = {"ok": True, "stages": {}}
    for stage in STAGES:
        losses = {}
        for device in ("cpu", "cuda"):
            config, paths = ready(stage_config("smoke", device, **few_steps(amp=False)), folder, stage)
            context = recorder(config, paths, stage, TRAINED_STEPS)
            run_stage(context)
            losses[device] = [float(r["loss"]) for r in context.rows if "loss" in r]
        worst = max(abs(a - b) / abs(a) for a, b in zip(losses["cpu"], losses["cuda"], strict=True))
        bound = QAT_PARITY if stage.startswith("qat") else FLOAT_PARITY
        found["stages"][stage] = {"worst_relative_difference": worst, "bound": bound, **losses}
        found["ok"] &= worst <= bound
    return found


def resume(folder: Path, pretend: str, limit: float) -> Result:
    """A stage that was stopped and goes on against one that was not, and a repetition: to the bit."""
    found: Result = {"ok": True, "stages": {}}
    for stage in STAGES:
        config, paths = ready(stage_config("smoke", "cuda", **few_steps(amp=True)), folder, stage)
        ends = []
        for stops in ((TRAINED_STEPS,), (TRAINED_STEPS,), (3, TRAINED_STEPS - 3)):
            saved: dict[int, Any] = {}
            for stop in stops:
                run_stage(recorder(config, paths, stage, stop, saved))
            ends.append(saved[TRAINED_STEPS])
        repeated, resumed = differing(ends[0], ends[1]), differing(ends[0], ends[2])
        found["stages"][stage] = {"repeat_differs_in": repeated[:5], "resume_differs_in": resumed[:5]}
        found["ok"] &= not repeated and not resumed
    return found


def out_of_memory(folder: Path, pretend: str, limit: float) -> Result:
    """A batch that does not fit: the stage goes on in parts."""
    import torch

    changes = {**few_steps(amp=True), "train.seismic.batch_size": 64, "train.seismic.fit_head": False}
    config, paths = ready(stage_config("smoke", "cuda", **changes), folder, "train-seismic")
    if pretend:
        import pretend_gpu

        pretend_gpu.log.limit = 420_000_000
        context = recorder(config, paths, "train-seismic", TRAINED_STEPS)
        run_stage(context)
    else:
        run_stage(recorder(config, paths, "train-seismic", 2))
        gc.collect()
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(0.7 * peak / total)
        context = recorder(config, paths, "train-seismic", TRAINED_STEPS)
        run_stage(context)
    events = [e for e in context.events if e["event"] == "out_of_memory"]
    losses = [r["loss"] for r in context.rows if "loss" in r]
    return {"ok": bool(events) and len(losses) == TRAINED_STEPS, "events": events, "losses": losses}


def stages(folder: Path, pretend: str, limit: float) -> Result:
    """Kernels, synchronisations, uploads and steps a second of every stage of the demo preset."""
    found: Result = {"ok": True, "preset": "smoke" if pretend else "demo", "stages": {}}
    frozen = {f"qat.{name}.warmup": (0.0, 0.0, 0.0) for name in ("decoders", "diffusion")}
    observing = {f"qat.{name}.warmup": (0.0, 0.0, 0.9) for name in ("decoders", "diffusion")}
    ways: list[tuple[str, str, dict[str, object]]] = []
    for stage in STAGES[:3]:
        ways += [(stage, "bfloat16", {}), (stage, "float32", {f"train.{stage[6:]}.amp": False})]
    for stage in STAGES[3:]:
        ways += [(stage, "observing", dict(observing)), (stage, "frozen", dict(frozen))]
        ways += [(stage, "searched ranges", {**observing, "quant.decoder_observer": "mse", "quant.observer": "mse"})]
    for stage, way, changes in ways:
        try:
            found["stages"][f"{stage}, {way}"] = measure_stage(folder, stage, way, changes, found["preset"], pretend)
        except Exception as error:
            found["ok"] = False
            found["stages"][f"{stage}, {way}"] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(found), flush=True)
    return found


def measure_stage(folder: Path, stage: str, way: str, changes: dict[str, object], preset: str, pretend: str) -> Result:
    """One stage: a few steps to warm up, some timed, some profiled."""
    import torch

    far = {}
    for table in ("train.autoencoder", "train.seismic", "train.diffusion", "qat.decoders", "qat.diffusion"):
        far[f"{table}.steps"] = 1_000_000
    values: dict[str, object] = {**far, "run.log_every": 10, "qat.calibration_batches": 1, **changes}
    config, paths = ready(stage_config(preset, "cuda", **values), folder / way.replace(" ", "-"), stage)
    warm, timed = (2, 2) if pretend else (5, 5 + MEASURED)
    context = recorder(config, paths, stage, timed + (1 if pretend else PROFILED))
    result: Result = {}
    clock: dict[str, float] = {}
    profiler: Any = None

    def on_step(step: int) -> None:
        nonlocal profiler
        if step == warm:
            torch.cuda.synchronize()
            clock["begin"] = time.perf_counter()
            if pretend:
                import pretend_gpu

                pretend_gpu.log.reset()
        if step == timed and not pretend:
            torch.cuda.synchronize()
            result["steps_per_second"] = round((timed - warm) / (time.perf_counter() - clock["begin"]), 2)
            activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
            profiler = torch.profiler.profile(activities=activities)
            profiler.__enter__()
        if step == timed + 1 and pretend:
            import pretend_gpu

            log = pretend_gpu.log
            result.update(
                kernels=sum(log.kernels.values()), uploads=sum(log.uploads.values()), syncs=sum(log.syncs.values()),
                upload_mb=round(sum(log.upload_bytes.values()) / 1e6, 2), alerts=dict(log.alerts),
                syncs_at=dict(log.syncs.most_common(4)),
            )  # fmt: skip
        if step == timed + PROFILED and profiler is not None:
            torch.cuda.synchronize()
            profiler.__exit__(None, None, None)

    context.on_step = on_step
    run_stage(context)
    result["peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    torch.cuda.reset_peak_memory_stats()
    if profiler is not None:
        counts: dict[str, int] = {}
        for event in profiler.events():
            if "CUDA" in str(event.device_type):
                kind = "copies" if event.name.startswith(("Memcpy", "Memset")) else "kernels"
                counts[kind] = counts.get(kind, 0) + 1
            elif event.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize"):
                counts["syncs"] = counts.get("syncs", 0) + 1
        result |= {kind: round(count / PROFILED) for kind, count in counts.items()}
    return result


def full_size(folder: Path, pretend: str, limit: float) -> Result:
    """Steps of the full-size U-Net's QAT, from random weights: peak memory, seconds a step, parts of a batch."""
    import torch

    from ubq.data.normalization import for_config
    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff, build_part
    from ubq.quant.generator import Recipe, deployable
    from ubq.quant.prepare import calibrate, prepare_qat
    from ubq.stages.device import settle_cuda
    from ubq.training.context import Stopped
    from ubq.training.loop import train
    from ubq.training.qat import QatDiffusionTask
    from ubq.training.tasks import Latents

    device = torch.device("cuda")
    settle_cuda(device)
    config = stage_config("smoke" if pretend else FULL_PRESET, "cuda", **{"run.checkpoint_steps": 0})
    sizes = ModelSizes.from_dict(config.model.model_dump())
    with torch.device("meta"):
        model = UBDiff(sizes)
    if pretend:
        model.unet = build_part(sizes, "unet").to(device)
    else:
        with device:
            model.unet = build_part(sizes, "unet")
    recipe = Recipe(sizes, for_config(config.data), config.quant, config.export)
    generator = deployable(model, recipe, keep_model=False)
    prepare_qat(generator, config.quant)
    generator.unet.to(device)
    latents = torch.randn(256, sizes.encoder_dim).clamp(-1, 1).to(device)
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant).to(device)
    time_of = torch.arange(4).to(device)
    calibrate(generator.unet, [lambda: generator.unet(latents[:4, None], time_of)])
    settings = config.qat.diffusion.model_copy(update={"steps": 100, "epochs": 0, "warmup": (0.0, 0.0, 0.0)})
    torch.cuda.reset_peak_memory_stats()
    context = recorder(config, None, "qat-diffusion", 3)
    context.save = lambda step, payload: None
    task = QatDiffusionTask(generator.unet, diffusion, Latents(latents, latents[:16]), settings)
    task.validate = lambda batch: 0.0  # type: ignore[method-assign]
    with contextlib.suppress(Stopped):
        train(task, context, settings, config.run, 0, device)
    each = [b - a for a, b in zip(context.clock.ends, context.clock.ends[1:], strict=False)]
    return {
        "ok": bool(each),
        "preset": FULL_PRESET,
        "parameters_m": round(sum(p.numel() for p in generator.unet.parameters()) / 1e6, 1),
        "batch_size": settings.batch_size,
        "out_of_memory": context.events,
        "seconds_a_step": round(min(each), 3),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "losses": [r["loss"] for r in context.rows if "loss" in r],
    }


def forward(folder: Path, pretend: str, limit: float) -> Result:
    """Forward modelling of a map on the GPU, against the CPU."""
    import numpy as np

    from ubq.data.forward import forward_model
    from ubq.data.synthetic import synthesise_velocity

    if pretend:
        return {"ok": True, "skipped": "the pretended device has no kernels of deepwave"}
    maps = synthesise_velocity("curvefault-a", 8, seed=0)
    begin = time.perf_counter()
    on_cpu = [forward_model(m) for m in maps]
    cpu_seconds = (time.perf_counter() - begin) / len(maps)
    forward_model(maps[0], "cuda")
    begin = time.perf_counter()
    on_gpu = [forward_model(m, "cuda") for m in maps]
    gpu_seconds = (time.perf_counter() - begin) / len(maps)
    worst = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(on_cpu, on_gpu, strict=True))
    return {
        "ok": worst < 1e-4,
        "worst_difference_over_peak": worst,
        "cpu_seconds_a_map": round(cpu_seconds, 4),
        "gpu_seconds_a_map": round(gpu_seconds, 4),
    }


def sampling(folder: Path, pretend: str, limit: float) -> Result:
    """The float generator of the demo's sizes samples on the GPU what it samples on the CPU."""
    import torch

    from ubq.data.normalization import for_config
    from ubq.model import ModelSizes, UBDiff
    from ubq.quant.generator import Recipe, deployable
    from ubq.stages.device import settle_cuda

    settle_cuda(torch.device("cuda"))
    config = stage_config("smoke" if pretend else "demo", "cuda")
    sizes = ModelSizes.from_dict(config.model.model_dump())
    torch.manual_seed(0)
    generator = deployable(
        UBDiff(sizes).eval(), Recipe(sizes, for_config(config.data), config.quant, config.export), keep_model=False
    ).eval()
    count = generator.sampler.steps[0]
    batch = 4 if pretend else 64
    x_T, noise = torch.randn(batch, 1, sizes.encoder_dim), torch.randn(count - 1, batch, 1, sizes.encoder_dim)
    with torch.no_grad():
        reference = generator.decode(generator.sample(x_T, noise, count))
        generator.to("cuda")
        found, seconds = None, 0.0
        for _ in range(2):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            found = generator.decode(generator.sample(x_T.to("cuda"), noise.to("cuda"), count))
            torch.cuda.synchronize()
            seconds = time.perf_counter() - begin
    assert found is not None
    errors = [float((a - b.cpu()).norm() / a.norm()) for a, b in zip(reference, found, strict=True)]
    return {
        "ok": max(errors) < 1e-2,
        "relative_difference_velocity_seismic": errors,
        "steps": count,
        "samples_per_second": round(batch / seconds, 1),
    }


def demo_data(folder: Path, pretend: str, limit: float) -> Result:
    """The pairs of the demo, which the CPU synthesises."""
    found = whole_run("demo", folder.parent / "demo", pretend, limit - 5, "--until", "prepare")
    return {**found, "ok": found["exit"] == 0}


def demo(folder: Path, pretend: str, limit: float) -> Result:
    """The demo preset with all its marks."""
    return whole_run("demo", folder, pretend, limit - 5)


PARTS: dict[str, tuple[Callable[[Path, str, float], Result], float]] = {
    "environment": (environment, 60),
    "smoke": (smoke, 110),
    "parity": (parity, 90),
    "resume": (resume, 90),
    "out_of_memory": (out_of_memory, 60),
    "demo_data": (demo_data, 120),
    "full_size": (full_size, 75),
    "forward": (forward, 45),
    "sampling": (sampling, 45),
    "stages": (stages, 110),
    "demo": (demo, 420),
}
"""Each part and the most seconds it gets; the quick and telling ones first."""
TOGETHER = ("smoke", "parity", "resume", "out_of_memory", "demo_data")
"""Parts that take no time of anything: they may run beside each other."""


# ---------------------------------------------------------------- running them


def tables(results: dict[str, Result]) -> str:
    """What was found, as Markdown."""
    lines = ["| part | result | seconds |", "|---|---|---|"]
    for name, result in results.items():
        word = "ok" if result.get("ok") else "FAILED"
        why = result.get("skipped") or result.get("error", "")
        lines.append(f"| {name} | {word} {why} | {result.get('seconds', '')} |".replace("\n", " "))
    where = results.get("environment", {})
    lines += ["", f"{where.get('gpu')}, torch {where.get('torch')}, Python {where.get('python')}"]
    measured = results.get("stages", {}).get("stages", {})
    if measured:
        columns = ("steps_per_second", "kernels", "copies", "uploads", "syncs", "peak_mb")
        columns = tuple(c for c in columns if any(c in m for m in measured.values()))
        lines += ["", f"| {results['stages']['preset']}: stage | " + " | ".join(columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [f"| {n} | " + " | ".join(str(m.get(c, "")) for c in columns) + " |" for n, m in measured.items()]
    compared = results.get("parity", {}).get("stages", {})
    if compared:
        lines += ["", "| stage | largest relative difference of a step's loss, GPU to CPU |", "|---|---|"]
        lines += [f"| {name} | {m['worst_relative_difference']:.1e} |" for name, m in compared.items()]
    full = results.get("full_size", {})
    if "peak_gb" in full:
        lines += [
            "",
            f"One QAT step of {full['preset']}'s U-Net ({full['parameters_m']} M parameters, batch "
            f"{full['batch_size']}): {full['seconds_a_step']} s, {full['peak_gb']} GB at the peak.",
        ]
    for name in ("smoke", "demo"):
        marks = results.get(name, {}).get("marks", [])
        if marks:
            lines += ["", f"| {name}: mark | passed | value | wanted |", "|---|---|---|---|"]
            lines += [f"| {i} | {p} | {v} | {t} |" for i, p, v, t in marks]
    return "\n".join(lines) + "\n"


def run_part(name: str, out: Path, work: Path, pretend: str, limit: float) -> Result:
    """One part in a process of its own; what it printed last is its result."""
    command = [sys.executable, __file__, "--out", str(out), "--part", name, "--limit", str(limit), "--work", str(work)]
    command += ["--pretend", pretend] if pretend else []
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=limit)
            late = False
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            late = True
    lines = [line for line in output.splitlines() if line.startswith("{")]
    try:
        result: Result = json.loads(lines[-1])
    except (IndexError, ValueError):
        result = {"ok": False, "error": (errors.strip().splitlines() or ["no result"])[-1]}
    if late:
        result |= {"ok": False, "error": f"not finished within {limit:.0f} s"}
    if not result.get("ok"):
        result["stderr_tail"] = errors[-3000:]
    return {**result, "seconds": round(time.monotonic() - begin, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder for results.json and tables.md.")
    parser.add_argument("--work", type=Path, help="Folder for runs and data; a temporary one where left out.")
    parser.add_argument("--limit", type=float, default=480.0, help="Seconds for everything.")
    parser.add_argument("--parts", default="", help="Only these, with commas between them.")
    parser.add_argument("--pretend", default="", help="Folder of the pretended device.")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        return one_part(options)
    import tempfile

    begin = time.monotonic()
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="ubq-gpu-") as temporary:
        work = options.work or Path(temporary)
        lock = threading.Lock()

        def work_on(name: str) -> None:
            left = options.limit - (time.monotonic() - begin)
            if left < 15:
                found: Result = {"ok": False, "error": "no time left"}
            else:
                print(f"{name} ...", flush=True)
                limit = min(left, PARTS[name][1] * (10 if options.pretend else 1))
                found = run_part(name, options.out.resolve(), work / name, options.pretend, limit)
            with lock:
                print(f"{name}: {json.dumps(found)[:1500]}", flush=True)
                results[name] = found
                (options.out / "results.json").write_text(json.dumps(results, indent=1))
                (options.out / "tables.md").write_text(tables(results))

        names = options.parts.split(",") if options.parts else list(PARTS)
        for name in (*names, *TOGETHER):
            (work / name).mkdir(parents=True, exist_ok=True)
        (work / "demo").mkdir(exist_ok=True)
        together = [] if options.pretend else [n for n in names if n in TOGETHER]
        for name in names:
            if name in together[:1]:
                with ThreadPoolExecutor(len(together)) as pool:
                    list(pool.map(work_on, together))
            elif name not in together:
                work_on(name)
    print(tables(results))
    return 0 if all(r.get("ok") for r in results.values()) else 1


def one_part(options: argparse.Namespace) -> int:
    """Run a part in this process and print its result."""
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if options.pretend:
        sys.path.insert(0, options.pretend)
        import pretend_gpu

        pretend_gpu.install()
    try:
        result = PARTS[options.part][0](options.work, options.pretend, options.limit)
    except Exception as error:
        traceback.print_exc()
        result = {"ok": False, "error": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
