"""The upstream fork's full-size model through the whole product, on 2 cores and 24 GB.

``python studies/full_size.py [--widths small] [--folder DIR] [--threads N] [--keep]``

Random weights in a checkpoint of the fork's diffusion container, then, each in a process of its own: import, two
QAT steps of each QAT stage at batch 1, export, and the file loaded and sampled without ubq. Prints Markdown: peak
memory and seconds of every process, sizes of every file, coverage; exits with 1 where a target is missed.
``--widths small`` runs the same commands on a narrow model, to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRESET = "curvefault-a"
RUN = "full"
PAIRS = 4
SAMPLING_STEPS = 4
WIDTHS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {
        "encoder_dim": 64,
        "encoder_dims": [8, 8, 16, 16],
        "velocity_latent": 16,
        "velocity_dims": [8, 8, 16, 16, 32],
        "seismic_latent": 16,
    },
}
"""What differs from the fork's default sizes, (512; 1,2,4,8)."""
GB = 1e9
LIMITS_GB = {"import": 12.0, "qat-decoders": 20.0, "qat-diffusion": 20.0, "export": 12.0}
LARGEST_FILE_GB = 1.02
LONGEST_EXPORT_S = 600.0
DISK_GB = {"full": 40.0, "small": 2.0}
"""The checkpoint that is imported, and more than the preflight of the run asks for."""


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Attributes:
        seconds: wall time.
        peak: largest resident memory, bytes, pages of memory-mapped files included.
        private: largest memory that is the process's own, polled; mapped pages are the kernel's to drop.
        output: its standard output.
    """

    seconds: float
    peak: int
    private: int
    output: str


def measured(command: list[str], **environment: str) -> Cost:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"LANG": "C.UTF-8"} | environment
        )
        private = [0]
        watcher = threading.Thread(target=_watch, args=(process.pid, private), daemon=True)
        watcher.start()
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begin
        watcher.join()
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    return Cost(seconds, usage.ru_maxrss * 1024, private[0], text)


def _watch(pid: int, private: list[int]) -> None:
    """Keep the largest ``RssAnon`` seen until the process is gone."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        line = next((x for x in status.splitlines() if x.startswith("RssAnon:")), None)
        if line is None:  # a zombie has no memory
            return
        private[0] = max(private[0], int(line.split()[1]) * 1024)
        time.sleep(0.1)


def write_checkpoint(path: Path, widths: str) -> None:
    """Random weights laid out as the fork's ``model-4.pt``: the U-Net stands twice and in ``ema``, on one storage."""
    import torch

    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
    from ubq.upstream.names import upstream_names

    sizes = ModelSizes.from_dict({"variant": "fork", **WIDTHS[widths]})
    torch.manual_seed(0)
    tensors = UBDiff(sizes).state_dict()
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
    tensors |= {f"diffusion.{n}": t for n, t in diffusion.state_dict().items()}
    names = upstream_names(sizes.variant, len(sizes.dim_mults), sizes.seismic_depth)
    state = {upstream: tensors[ours] for ours, all_names in names.items() for upstream in all_names}
    averaged = {n.removeprefix("unet."): t for n, t in state.items() if n.startswith("unet.")}
    ema = {"ema_model": averaged, "step": torch.tensor(4), "initted": torch.tensor(True)}
    torch.save({"step": 4, "model": state, "ema": ema}, path)
    parameters = sum(p.numel() for n, p in tensors.items() if not n.startswith("diffusion."))
    print(f"{parameters / 1e6:.1f} M")


LOAD_AND_DRAW = """
import json, sys, time, torch
torch.backends.quantized.engine = "qnnpack"
torch.set_num_threads(int(sys.argv[2]))
begin = time.perf_counter()
model = torch.jit.load(sys.argv[1])
loaded = time.perf_counter()
velocity, seismic = model(1)
drawn = time.perf_counter()
model(1)
again = time.perf_counter()
assert "ubq" not in sys.modules
assert velocity.shape == (1, 1, 70, 70) and seismic.shape == (1, 5, 1000, 70)
assert torch.isfinite(velocity).all() and torch.isfinite(seismic).all()
print(json.dumps({"load": loaded - begin, "first": drawn - loaded, "again": again - drawn}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", choices=WIDTHS, default="full")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_checkpoint(arguments.write, arguments.widths)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="ubq-full-size-", dir=arguments.folder))
    free = shutil.disk_usage(folder).free / GB
    if free < DISK_GB[arguments.widths]:
        print(f"{DISK_GB[arguments.widths]:.0f} GB of disk wanted in {folder}, {free:.0f} GB free: --folder DIR")
        return 2
    try:
        return report(folder, arguments.widths, arguments.threads or len(os.sched_getaffinity(0)))
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)


def report(folder: Path, widths: str, threads: int) -> int:
    checkpoint = folder / "model-4.pt"
    parameters = measured([sys.executable, __file__, "--write", str(checkpoint), "--widths", widths]).output.strip()
    print(f"Fork model of {parameters} parameters, {threads} threads, engine qnnpack\n")
    settings = {
        "run.dir": str(folder),
        "run.name": RUN,
        "pretrained.path": str(checkpoint),
        "device": "cpu",
        "threads": threads,
        "data.synth_samples": PAIRS,
        "model.variant": "fork",
        "distill.steps": 0,
        "qat.steps": 2,
        "qat.batch_size": 1,
        "qat.warmup": [0.0, 0.0, 0.0],  # both steps with everything fake-quantised
        "qat.calibration_batches": 2,
        "run.checkpoint_minutes": 0.0,  # one checkpoint a stage, at its end
        "export.steps": SAMPLING_STEPS,
        "export.name": RUN,
        **{f"model.{key}": value for key, value in WIDTHS[widths].items()},
    }
    command = [sys.executable, "-m", "ubq", "run", "--preset", PRESET]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    run = folder / RUN
    costs: dict[str, Cost] = {}
    print("| process | peak GB | of it private GB | s | limit GB |\n|---|---|---|---|---|", flush=True)
    missed: list[str] = []
    for stage in ("prepare", "import", "qat-decoders", "qat-diffusion", "export"):
        cost = costs[stage] = measured([*command, "--until", stage])
        limit = LIMITS_GB.get(stage)
        print(row(stage, cost, f"{limit:g}" if limit else ""), flush=True)
        if limit and cost.peak > limit * GB:
            missed.append(f"{stage}: {cost.peak / GB:.1f} GB")
    exported = run / "exported_models" / f"{RUN}.pt"
    drawn = measured([sys.executable, "-I", "-c", LOAD_AND_DRAW, str(exported), str(threads)])
    print(row("load, two pairs, no ubq", drawn, ""))
    times = json.loads(drawn.output.splitlines()[-1])
    written = sum(f.stat().st_size for f in run.rglob("*") if f.is_file()) / GB
    print(
        f"\nload {times['load']:.1f} s, first pair {times['first']:.1f} s, the next {times['again']:.1f} s, "
        f"{SAMPLING_STEPS} sampling steps"
    )
    print(f"\nPreflight of the whole run: {disk_needed(settings, run)}; written in the end: {written:.1f} GB\n")
    print("| file | GB |\n|---|---|")
    for title, path in files_of(run, checkpoint):
        print(f"| {title} | {path.stat().st_size / GB:.3f} |")
    goals = json.loads((run / "checkpoints/export/quantization_analysis.json").read_text())["goals"]
    print("\n| read off the exported graph | int8 | goal |\n|---|---|---|")
    for name, goal in goals.items():
        print(f"| {name} | {100 * goal['share']:.4f} % | {100 * goal['goal']:g} % |")
    missed += [f"{name}: {goal['share']:.5f}" for name, goal in goals.items() if not goal["met"]]
    if exported.stat().st_size > LARGEST_FILE_GB * GB:
        missed.append(f"exported file: {exported.stat().st_size / GB:.3f} GB")
    if costs["export"].seconds > LONGEST_EXPORT_S:
        missed.append(f"export: {costs['export'].seconds:.0f} s")
    print("\nTargets missed: " + (", ".join(missed) or "none"))
    return 1 if missed else 0


def row(name: str, cost: Cost, limit: str) -> str:
    return f"| {name} | {cost.peak / GB:.2f} | {cost.private / GB:.2f} | {cost.seconds:.0f} | {limit} |"


def disk_needed(settings: dict[str, Any], run: Path) -> str:
    """What the preflight says to someone who starts the whole run."""
    from ubq.config.load import load_config
    from ubq.jobs.checks.preflight import check_disk
    from ubq.stages import PIPELINE
    from ubq.stages.estimate import memory_of
    from ubq.stages.paths import RunPaths

    config = load_config(PRESET, settings, isolated=True).config
    names = [stage.name for stage in PIPELINE if stage.applies(config)]
    return check_disk(config, RunPaths(run.with_name("another")), names, memory_of(config)).figure


def files_of(run: Path, checkpoint: Path) -> list[tuple[str, Path]]:
    """Every large file on the way, the input first."""
    checkpoints = run / "checkpoints"
    return [
        ("checkpoint of the fork's container", checkpoint),
        ("imported float model", checkpoints / "import/model.pt"),
        ("final_qat_decoders.pt", checkpoints / "qat_decoders/final_qat_decoders.pt"),
        (
            "final_qat_model.pt: fake-quantised generator, float weights",
            checkpoints / "qat_diffusion/final_qat_model.pt",
        ),
        ("float generator, TorchScript", checkpoints / f"export/float/{RUN}.pt"),
        ("int8 generator, TorchScript", run / f"exported_models/{RUN}.pt"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
