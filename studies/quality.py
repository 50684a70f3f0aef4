"""What quantisation did to a finished run: float, fake-quantised and exported side by side, and time per stage.

``python studies/quality.py RUN_FOLDER [--ptq RUN_FOLDER] [--pairs 1024] [--physics 128]`` prints Markdown tables. All
are given the same held-out maps, latents, noise and time steps; an exported file runs under the engine it was made for.
``--ptq`` adds the exported file of another run with the same pretraining, made with ``qat.epochs = 0``. Beside each
figure stands its bar; of a ratio the upper end of the paired bootstrap 95 % interval is what must hold.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ubq.acquisition import acquisition_for
from ubq.config.load import read_frozen
from ubq.config.schema import Config
from ubq.data.normalization import Normalization
from ubq.data.split import SampleIds
from ubq.export.lower.torchscript import engine, load_torchscript
from ubq.metrics import (
    Interval,
    bootstrap_ratio,
    physics_errors,
    physics_reference,
    ratio_interval,
    real_floor,
    relative_l2,
    seismic_error,
    sliced_wasserstein,
    ssim,
)
from ubq.metrics.errors import LATE_SAMPLE
from ubq.model import GaussianDiffusion, UBDiff
from ubq.model.parts import PARTS
from ubq.quant.checkpoint import load_qat
from ubq.quant.generator import Generator, deployable
from ubq.runtime.wave import WaveEquation
from ubq.stages.export import name_of
from ubq.stages.floatmodel import trained_parts
from ubq.stages.maps import open_split
from ubq.stages.paths import RunPaths
from ubq.stages.qat import recipe_of
from ubq.training.latents import load_latents
from ubq.training.randomness import SampleDraws

CPU = torch.device("cpu")
BATCH = 16
DRAWS = 4
"""Time steps and noises drawn for each held-out latent in the diffusion loss."""

Model = Generator | torch.jit.ScriptModule


def in_batches(run: Callable[..., object], *inputs: Tensor) -> list[object]:
    """Results of a call on batches of its inputs."""
    return [run(*parts) for parts in zip(*(t.split(BATCH) for t in inputs), strict=True)]


def decode(model: Model, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Maps in m/s and gathers in amplitude of latents (N, 1, L)."""
    velocity, seismic = zip(*in_batches(model.decode, latents), strict=True)
    return torch.cat(velocity), torch.cat(seismic)


def diffusion_losses(model: Model, diffusion: GaussianDiffusion, times: Tensor, latents: Tensor) -> Tensor:
    """Weighted squared errors, (N,), at time steps that the exported sampler visits."""
    errors = []
    for repeat in range(DRAWS):
        for first, part in zip(range(0, len(latents), BATCH), latents.split(BATCH), strict=True):
            draws = SampleDraws(repeat, "bench", range(first, first + len(part)))
            time, noise = times[draws.integers(len(times))], draws.normal(1, part.shape[-1])
            error = model.unet(diffusion.q_sample(part, time, noise), time) - diffusion.target(part, time, noise)
            errors.append(error.square().flatten(1).mean(1) * diffusion.loss_weight[time])
    return torch.cat(errors).reshape(DRAWS, -1).mean(0)


def draw(model: Model, count: int, latent: int, steps: int) -> Tensor:
    """Latents (N, 1, L) from the same noise for every model."""
    rng = torch.Generator().manual_seed(0)
    x_T = torch.randn(count, 1, latent, generator=rng)
    noise = torch.randn(steps - 1, count, 1, latent, generator=rng)
    return torch.cat([model.sample(x_T[i : i + BATCH], noise[:, i : i + BATCH], steps) for i in range(0, count, BATCH)])


def models_of(config: Config, paths: RunPaths, names: Sequence[str] = ("float", "QAT", "exported")) -> dict[str, Model]:
    """The pretrained float generator, the fake-quantised one, and the exported file."""
    recipe = recipe_of(config, paths)

    def pretrained() -> Model:
        with torch.device("meta"):
            model = UBDiff(recipe.sizes)
        parts = tuple(p for p in PARTS if p != "encoder")
        for name, part in trained_parts(config, paths, parts, CPU, student=True).items():
            setattr(model, name, part)
        return deployable(model, recipe, keep_model=False).eval()

    makers: dict[str, Callable[[], Model]] = {
        "float": pretrained,
        "QAT": lambda: load_qat(paths.checkpoints("qat-diffusion") / "final_qat_model.pt").generator.eval(),
        "exported": lambda: load_torchscript(paths.exported / f"{name_of(config, paths)}.pt", config.quant.backend),
    }
    return {name: makers[name]() for name in names}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ptq", type=Path, help="run whose exported file is shown as PTQ")
    parser.add_argument("--pairs", type=int, default=1024, help="pairs generated for the distribution distance")
    parser.add_argument("--physics", type=int, default=128, help="pairs forward modelled")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    config = read_frozen(paths.config)
    torch.set_num_threads(config.threads)
    with engine(config.quant.backend):
        models = models_of(config, paths)
        if arguments.ptq:
            ptq = RunPaths(arguments.ptq)
            models = {"PTQ": models_of(read_frozen(ptq.config), ptq, ("exported",))["exported"], **models}
        print(f"Engine {config.quant.backend}; ", end="")
        print(report(models, held_out(config, paths), arguments.pairs, arguments.physics))
    print("\n| stage | seconds |\n|---|---|")
    for stage in json.loads(paths.state.read_text())["stages"]:
        if stage["seconds"]:
            print(f"| {stage['name']} | {stage['seconds']:.0f} |")


@dataclass(frozen=True)
class HeldOut:
    """What every model of a run is measured on.

    Attributes:
        maps, gathers: held-out pairs, (N, 1, 70, 70) m/s and (N, 5, 1000, 70) amplitude.
        real: every held-out map.
        train: at most 1,000 training maps.
        latents: of every held-out map, (M, 1, L).
        scale: the run's ranges.
        diffusion: the run's process.
        distilled: the U-Net no longer predicts from noised data, so that it has no diffusion loss.
    """

    maps: Tensor
    gathers: Tensor
    real: Tensor
    train: Tensor
    latents: Tensor
    scale: Normalization
    diffusion: GaussianDiffusion
    distilled: bool = False


def held_out(config: Config, paths: RunPaths) -> HeldOut:
    recipe = recipe_of(config, paths)
    sizes = recipe.sizes
    split = open_split(config, paths, seismic=True)
    chosen = range(min(len(split.val), 256))
    return HeldOut(
        maps=split.val.velocity_batch(chosen),
        gathers=split.val.seismic_batch(chosen),
        real=split.val.velocity_batch(range(len(split.val))),
        train=split.train.velocity_batch(range(min(len(split.train), 1000))),
        latents=load_latents(paths.latents, CPU, SampleIds.of(split)).val[:, None],
        scale=recipe.normalization,
        diffusion=GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant),
        distilled=recipe.distilled,
    )


@dataclass(frozen=True)
class Figures:
    """One model's figures.

    Attributes:
        values: every figure by name; all but the SSIM are the better the smaller.
        series: what the figure of that name is the mean of, or the root of the mean times a constant; one a sample.
        drawn: generated maps, m/s.
    """

    values: dict[str, float]
    series: dict[str, Tensor]
    drawn: Tensor


SSIM = "velocity SSIM"
VELOCITY = "velocity relative L2, normalised"
SEISMIC = (
    "seismic relative L2, log-normalised",
    "seismic relative L2, physical",
    "seismic relative L2, t > 0.6 s, log-normalised",
    "seismic relative L2, t > 0.6 s, physical",
)
LOSS = "diffusion loss"
DISTANCE = "distribution distance"
PHYSICS = "E of generated pairs, the decoder's gathers"
LARGEST_DROP = 0.005
"""Of the SSIM."""
BARS = {**dict.fromkeys(SEISMIC, 1.05), LOSS: 1.03, DISTANCE: 1.05, PHYSICS: 1.05}
"""Largest ratio of the exported file's figure to the float model's."""
ROOTED = (VELOCITY, *SEISMIC)
"""Figures that are roots of sums over samples."""


def figures_of(model: Model, data: HeldOut, count: int, physics: int) -> Figures:
    """Measure one model: ``count`` generated pairs, of which ``physics`` are forward modelled."""
    scale = data.scale
    velocity, seismic = decode(model, data.latents[: len(data.maps)])
    error = seismic_error(seismic, data.gathers, scale.seismic)
    drawn, gathers = decode(model, draw(model, count, data.latents.shape[-1], model.sampler.steps[0]))
    seismic_errors = error.log_normalised, error.physical, error.late_log_normalised, error.late_physical
    values = {
        SSIM: ssim(velocity, data.maps, scale.velocity_min, scale.velocity_max),
        VELOCITY: relative_l2(scale.velocity(velocity), scale.velocity(data.maps)),
        **dict(zip(SEISMIC, seismic_errors, strict=True)),
        DISTANCE: sliced_wasserstein(drawn, data.real).mean,
    }
    late = (..., slice(LATE_SAMPLE, None), slice(None))
    logs = scale.seismic(seismic), scale.seismic(data.gathers)
    differences = [
        scale.velocity(velocity) - scale.velocity(data.maps),
        logs[0] - logs[1],
        seismic - data.gathers,
        logs[0][late] - logs[1][late],
        seismic[late] - data.gathers[late],
    ]
    series = {name: d.flatten(1).double().square().sum(1) for name, d in zip(ROOTED, differences, strict=True)}
    if not data.distilled:
        series[LOSS] = diffusion_losses(model, data.diffusion, model.sampler.times, data.latents)
        values[LOSS] = float(series[LOSS].mean())
    acquisition = acquisition_for(drawn.shape[1:], gathers.shape[1:])
    if physics and acquisition:
        reference = physics_reference(drawn[:physics].numpy(), WaveEquation(**asdict(acquisition)))
        series[PHYSICS] = torch.from_numpy(physics_errors(gathers[:physics].numpy(), *reference))
        values[PHYSICS] = float(series[PHYSICS].mean())
    return Figures(values, series, drawn)


def ratio_of(name: str, exported: Figures, reference: Figures, real: Tensor) -> Interval | None:
    """A figure of the exported file over the float model's, with its paired bootstrap interval; None for the SSIM."""
    if name == DISTANCE:
        return ratio_interval(exported.drawn, reference.drawn, real)
    if name not in reference.series:
        return None
    ratio = bootstrap_ratio(exported.series[name].numpy(), reference.series[name].numpy())
    if name not in ROOTED:
        return ratio
    return Interval(*(math.sqrt(x) for x in (ratio.value, ratio.lower, ratio.upper)))


def verdict(name: str, exported: Figures, reference: Figures, real: Tensor) -> tuple[str, str, str]:
    """Ratio or difference, bar, and whether it holds; empty where there is none."""
    if name == SSIM:
        change = exported.values[SSIM] - reference.values[SSIM]
        return f"{change:+.4f}", f">= -{LARGEST_DROP}", "yes" if change >= -LARGEST_DROP else "NO"
    ratio = ratio_of(name, exported, reference, real)
    if ratio is None:
        return "", "", ""
    text = f"{ratio.value:.4f} ({ratio.lower:.4f} to {ratio.upper:.4f})"
    if name not in BARS:
        return text, "", ""
    return text, f"<= {BARS[name]}", "yes" if ratio.upper <= BARS[name] else "NO"


def report(models: Mapping[str, Model], data: HeldOut, count: int, physics: int) -> str:
    """The table: a column for each model, of which ``float`` and ``exported`` are held against each other."""
    figures_by_model = {name: figures_of(model, data, count, physics) for name, model in models.items()}
    reference, exported = figures_by_model["float"], figures_by_model["exported"]
    lines = [
        f"{len(data.maps)} held-out pairs, {len(data.real)} maps, {count} generated pairs, {physics} forward modelled",
        "",
        "| held-out figure | " + " | ".join(models) + " | exported / float | bar | holds |",
        "|" + "---|" * (len(models) + 4),
    ]
    for name in exported.values:
        shown = " | ".join(f"{figures.values[name]:.4f}" for figures in figures_by_model.values())
        lines.append(f"| {name} | {shown} | " + " | ".join(verdict(name, exported, reference, data.real)) + " |")
    floor = real_floor(data.real, data.train, count=count)
    rng = torch.Generator().manual_seed(1)
    noise, _seismic = decode(models["float"], torch.randn(count, 1, data.latents.shape[-1], generator=rng))
    sampler = models["float"].sampler
    ceiling = sliced_wasserstein(noise, data.real).mean
    lines += [
        "",
        f"distribution distance of real maps {floor.mean:.4f}, of decoded noise {ceiling:.4f}; "
        f"sampler {sampler.solver}, {sampler.steps[0]} steps",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
