"""How few steps can a distilled U-Net draw in, what does int8 cost it, and which end error can quality bear?

``python studies/distillation.py RUN_FOLDER --out FOLDER [--steps 1,2,3,4] [--rates 1e-4,3e-4] [--maps 2048]``

Every student is a run of its own in FOLDER that shares RUN_FOLDER's data, pretraining and quantised decoders and takes
the stages distill and qat-diffusion through ``ubq run --only``; calibrated alone (``qat.diffusion.epochs=0``) and
trained at each of the rates. What is finished is not done again. Prints Markdown.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ubq.bench.distance import Noise, ancestral_maps
from ubq.bench.subject import FloatModel, held_out_maps, trained_model
from ubq.bench.timing import machine, markdown
from ubq.config.load import read_frozen
from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.synthetic import synthesise_velocity
from ubq.durable import write_atomic
from ubq.export.lower.torchscript import engine, lower
from ubq.metrics import ratio_interval
from ubq.quant.checkpoint import load_qat
from ubq.quant.generator import Generator, Recipe
from ubq.stages.paths import RunPaths
from ubq.stages.qat_diffusion import FINAL

SHARED = ("train-autoencoder", "train-seismic", "train-diffusion", "import", "qat-decoders", "latents")
TEACHERS = (("ddim", 20), ("dpmpp2m", 10), ("dpmpp2m", 20))
PERTURBED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Relative L2 of Gaussian noise added to a student's latents."""
FRESH_SEED = 7_000_003
"""Of held-out maps that are synthesised: no run's own."""


def make(source: RunPaths, out: Path, name: str, changes: Mapping[str, object], student: RunPaths | None) -> RunPaths:
    """Take one student through its stages; ``student``: a run whose distilled U-Net it shares."""
    target = RunPaths(out / name)
    project = out / f"{name}.toml"
    if not project.exists():
        shutil.rmtree(target.root, ignore_errors=True)
        target.root.mkdir(parents=True)
        folders = [(source, stage) for stage in SHARED] + ([(student, "distill")] if student else [])
        for paths, stage in folders:
            if paths.checkpoints(stage).exists():
                ignore = shutil.ignore_patterns("step-*")
                shutil.copytree(paths.checkpoints(stage), target.checkpoints(stage), ignore=ignore)
        target.data.symlink_to(source.data.resolve())
        shutil.copyfile(source.config, project)
    settings = {"run.dir": str(out), "run.name": name, "export.solver": "auto", "export.steps": 0, **changes}
    command = [sys.executable, "-m", "ubq", "run", "--config", str(project), "--no-preflight"]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    for stage in ("qat-diffusion",) if student else ("distill", "qat-diffusion"):
        done = subprocess.run([*command, "--only", stage], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}, {stage}:\n{done.stderr}")
    print(f"{name} done", file=sys.stderr, flush=True)
    return target


def float_generator(model: FloatModel, export: ExportConfig, distilled: bool = False) -> Generator:
    """A float model with a sampler."""
    return Generator(model.model, Recipe(model.sizes, model.normalization, QuantConfig(), export, distilled)).eval()


def latents_of(generator: Generator, noise: Noise) -> Tensor:
    """Latents (N, 1, L) by the default steps."""
    return torch.cat([generator.sample(x_T, x_T.new_empty(0), 0) for x_T, _none in noise.batches(1)])


def maps_of(generator: Generator, latents: Tensor) -> Tensor:
    """Maps (N, 1, 70, 70), m/s, without the gathers."""
    projector, decoder = generator.velocity_projector, generator.velocity_decoder
    maps = [decoder(projector(part.flatten(1))) for part in latents.split(64)]
    return torch.cat(maps) * generator.velocity_half + generator.velocity_middle


def interval(maps: Tensor, baseline: Tensor, real: Tensor) -> str:
    """Distance over that of the baseline."""
    ratio = ratio_interval(maps, baseline, real)
    return f"{ratio.value:.3f} ({ratio.lower:.3f} to {ratio.upper:.3f})"


def relative(latents: Tensor, reference: Tensor) -> str:
    """Relative L2, per cent."""
    return f"{100 * float((latents - reference).norm() / reference.norm()):.1f} %"


def kept_ancestral_maps(model: FloatModel, noise: Noise, path: Path) -> Tensor:
    """Maps of the float model by all of its steps; they take longest, so they are drawn once."""
    if not path.exists():
        content = io.BytesIO()
        torch.save(ancestral_maps(model, noise), content)
        write_atomic(path, content.getvalue())
        print(f"{path.name} done", file=sys.stderr, flush=True)
    maps: Tensor = torch.load(path, weights_only=True)
    return maps


def held_out(run: Path, count: int) -> Tensor:
    """Held-out maps of the run, of a synthetic one as many as wanted."""
    data, real = read_frozen(RunPaths(run).config).data, held_out_maps(run)
    if data.train_velocity or len(real) >= count:
        return real
    more = synthesise_velocity(data.family, count - len(real), FRESH_SEED)
    return torch.cat((real, torch.as_tensor(more, dtype=real.dtype)))


def students(arguments: argparse.Namespace, source: RunPaths) -> Iterator[tuple[int, str, RunPaths]]:
    """Every student: its steps, how it became int8, and its run."""
    for steps in arguments.steps:
        distilled = {"distill.steps": steps}
        alone = {"qat.diffusion.epochs": 0, "qat.diffusion.steps": 0, **distilled}
        first = make(source, arguments.out, f"steps-{steps}", alone, None)
        yield steps, "calibrated", first
        for rate in arguments.rates:
            changes = {"qat.diffusion.lr": rate, **distilled}
            yield steps, f"trained at {rate:g}", make(source, arguments.out, f"steps-{steps}-{rate:g}", changes, first)


@torch.no_grad()
def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def rates(text: str) -> list[float]:
        return [float(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=numbers, default=[1, 2, 3, 4], help="steps to distil to")
    parser.add_argument("--rates", type=rates, default=[1e-4, 3e-4], help="learning rates of qat-diffusion")
    parser.add_argument("--maps", type=int, default=2048, help="maps drawn for every figure")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out maps, where the data are synthetic")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as the run")
    parser.add_argument("--bar", action="store_true", help="int8 students over 256 ancestral steps alone, quicker")
    arguments = parser.parse_args()
    source, out = RunPaths(arguments.run), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads or read_frozen(source.config).threads)
    runs = list(students(arguments, source))
    model, real = trained_model(arguments.run), held_out(arguments.run, arguments.held_out)
    noise = Noise(arguments.maps, model.sizes.encoder_dim, 0)
    ancestral = kept_ancestral_maps(model, noise, out / f"ancestral-{arguments.maps}.pt")
    rows: list[tuple[str, str, str, Tensor]] = []
    for solver, steps in () if arguments.bar else TEACHERS:
        generator = float_generator(model, ExportConfig(solver=solver, steps=steps))  # type: ignore[arg-type]
        rows.append((f"float, {solver}", str(steps), "", maps_of(generator, latents_of(generator, noise))))
    of_solvers = [row[3] for row in rows]
    best = min(of_solvers, key=lambda maps: ratio_interval(maps, ancestral, real, resamples=2).value, default=None)
    perturbed, decoded = "", []
    for steps, kind, paths in runs:
        config = read_frozen(paths.config)
        student = float_generator(trained_model(paths.root, student=True), config.sampling, distilled=True)
        student_latents = latents_of(student, noise)
        if kind == "calibrated" and best is not None:
            rows.append(("student, float", str(steps), "", maps_of(student, student_latents)))
            if steps == 2 or len(arguments.steps) == 1:
                perturbed = bearable(student, student_latents, real)
        checkpoint = load_qat(paths.checkpoints("qat-diffusion") / FINAL)
        with engine(checkpoint.recipe.quant.backend):
            quantised = lower(checkpoint.generator.eval(), time_tables=True)
            latents = latents_of(quantised, noise)
            maps = maps_of(quantised, latents)
        rows.append((f"student, int8, {kind}", str(steps), relative(latents, student_latents), maps))
        if best is not None:
            decoded.append([kind, str(steps), *apart(student, student_latents, latents, maps, real)])
    header = ["sampler", "steps", "end error", "distance / 256 ancestral steps"]
    table = [[n, s, e, interval(m, ancestral, real)] for n, s, e, m in rows]
    if best is not None:
        header.append("distance / best of the float solvers")
        table = [[*row, interval(m, best, real)] for row, (_n, _s, _e, m) in zip(table, rows, strict=True)]
    print(markdown(header, table))
    print(f"\n{len(real)} held-out maps, {arguments.maps} drawn from the same noise each, 95 %; {machine()}\n")
    if best is None:
        return
    print(perturbed)
    header = ["U-Net", "steps", "spread / float's", "int8 decoder", "float decoder", "float decoder, float's spread"]
    print("\n" + markdown(header, decoded))


def apart(student: Generator, float_latents: Tensor, latents: Tensor, maps: Tensor, real: Tensor) -> list[str]:
    """What an int8 U-Net does to the distance, over that of the float student: without the decoder's part, and without
    its latents (N, 1, L) spreading wider or less wide than the float ones.
    """
    clean, spread = maps_of(student, float_latents), latents.std(0) / float_latents.std(0)
    alike = (latents - latents.mean(0)) / spread + float_latents.mean(0)
    distances = [interval(of, clean, real) for of in (maps, maps_of(student, latents), maps_of(student, alike))]
    return [f"{float(spread.mean()):.3f}", *distances]


def bearable(student: Generator, latents: Tensor, real: Tensor) -> str:
    """What an error of the latents does to the distance."""
    clean = maps_of(student, latents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noise *= latents.norm() / noise.norm()
    rows = [[f"{100 * e:g} %", interval(maps_of(student, latents + e * noise), clean, real)] for e in PERTURBED]
    return markdown(["end error", "distance / that of the student"], rows)


if __name__ == "__main__":
    main()
