"""What quantisation did to a finished run: float, fake-quantised and exported side by side, and time per stage.

``python bench/quality.py RUN_FOLDER [--pairs 256] [--physics 16]`` prints Markdown tables. All three are given the
same held-out maps, latents, noise and time steps; the exported file runs under the engine it was made for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ubq.config.extras import missing_modules
from ubq.config.load import read_frozen
from ubq.config.schema import Config
from ubq.data.forward import forward_model
from ubq.data.normalization import Normalization
from ubq.data.pairs import open_pairs
from ubq.export.torchscript import engine, load_torchscript
from ubq.metrics import (
    bootstrap_ratio,
    physics_residual,
    ratio_interval,
    real_floor,
    relative_l2,
    seismic_error,
    sliced_wasserstein,
    ssim,
)
from ubq.model import PARTS, GaussianDiffusion, UBDiff
from ubq.quant.checkpoint import load_qat
from ubq.quant.generator import Generator, deployable
from ubq.stages.export import name_of
from ubq.stages.floatmodel import trained_parts
from ubq.stages.latents import load_latents
from ubq.stages.maps import data_of, seismic_shape
from ubq.stages.paths import RunPaths
from ubq.stages.qat import recipe_of
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
    found = []
    for repeat in range(DRAWS):
        for first, part in zip(range(0, len(latents), BATCH), latents.split(BATCH), strict=True):
            draws = SampleDraws(repeat, "bench", range(first, first + len(part)))
            time, noise = times[draws.integers(len(times))], draws.normal(1, part.shape[-1])
            error = model.unet(diffusion.q_sample(part, time, noise), time) - diffusion.target(part, time, noise)
            found.append(error.square().flatten(1).mean(1) * diffusion.loss_weight[time])
    return torch.cat(found).reshape(DRAWS, -1).mean(0)


def draw(model: Model, count: int, latent: int, steps: int) -> Tensor:
    """Latents (N, 1, L) from the same noise for every model."""
    rng = torch.Generator().manual_seed(0)
    x_T = torch.randn(count, 1, latent, generator=rng)
    noise = torch.randn(steps - 1, count, 1, latent, generator=rng)
    return torch.cat([model.sample(x_T[i : i + BATCH], noise[:, i : i + BATCH], steps) for i in range(0, count, BATCH)])


def models_of(
    config: Config, paths: RunPaths, wanted: Sequence[str] = ("float", "QAT", "exported")
) -> dict[str, Model]:
    """The pretrained float generator, the fake-quantised one, and the exported file."""
    recipe = recipe_of(config, paths)

    def pretrained() -> Model:
        with torch.device("meta"):
            model = UBDiff(recipe.sizes)
        for name, part in trained_parts(config, paths, tuple(p for p in PARTS if p != "encoder"), CPU).items():
            setattr(model, name, part)
        return deployable(model, recipe, keep_model=False).eval()

    makers: dict[str, Callable[[], Model]] = {
        "float": pretrained,
        "QAT": lambda: load_qat(paths.checkpoints("qat-diffusion") / "final_qat_model.pt").generator.eval(),
        "exported": lambda: load_torchscript(paths.exported / f"{name_of(config, paths)}.pt", config.quant.backend),
    }
    return {name: makers[name]() for name in wanted}


def row(name: str, figures: list[float], ratio: str = "") -> str:
    return f"| {name} | " + " | ".join(f"{f:.4f}" for f in figures) + f" | {ratio} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pairs", type=int, default=256, help="pairs generated for the distribution distance")
    parser.add_argument("--physics", type=int, default=16, help="pairs forward modelled")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    config = read_frozen(paths.config)
    torch.set_num_threads(config.threads)
    with engine(config.quant.backend):
        report(config, paths, arguments.pairs, arguments.physics)
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
    """

    maps: Tensor
    gathers: Tensor
    real: Tensor
    train: Tensor
    latents: Tensor
    scale: Normalization
    diffusion: GaussianDiffusion


def held_out(config: Config, paths: RunPaths) -> HeldOut:
    recipe = recipe_of(config, paths)
    sizes = recipe.sizes
    split = open_pairs(data_of(config, paths), config.seed, True, seismic_shape(config))
    chosen = range(min(len(split.val), 256))
    return HeldOut(
        maps=split.val.velocity_batch(chosen),
        gathers=split.val.seismic_batch(chosen),
        real=split.val.velocity_batch(range(len(split.val))),
        train=split.train.velocity_batch(range(min(len(split.train), 1000))),
        latents=load_latents(paths, CPU).val[:, None],
        scale=recipe.normalization,
        diffusion=GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant),
    )


@dataclass(frozen=True)
class Figures:
    """One model's figures.

    Attributes:
        values: every figure by name; all but the SSIM are the better the smaller.
        losses: diffusion loss of every held-out latent.
        drawn: generated maps, m/s.
    """

    values: dict[str, float]
    losses: Tensor
    drawn: Tensor


SSIM = "velocity SSIM"
LOSS = "diffusion loss"
DISTANCE = "distribution distance"
RESIDUAL = "physics residual of generated pairs"
SHUFFLED = "the same with pairs shuffled"


def figures_of(model: Model, data: HeldOut, count: int, physics: int) -> Figures:
    """Measure one model: ``count`` generated pairs, of which ``physics`` are forward modelled."""
    scale = data.scale
    velocity, seismic = decode(model, data.latents[: len(data.maps)])
    error = seismic_error(seismic, data.gathers, scale.seismic)
    losses = diffusion_losses(model, data.diffusion, model.sampler.times, data.latents)
    drawn, gathers = decode(model, draw(model, count, data.latents.shape[-1], model.sampler.steps[0]))
    values = {
        SSIM: ssim(velocity, data.maps, scale.velocity_min, scale.velocity_max),
        "velocity relative L2, normalised": relative_l2(scale.velocity(velocity), scale.velocity(data.maps)),
        "seismic relative L2, log-normalised": error.log_normalised,
        "seismic relative L2, physical": error.physical,
        "seismic relative L2, t > 0.6 s, log-normalised": error.late_log_normalised,
        "seismic relative L2, t > 0.6 s, physical": error.late_physical,
        LOSS: float(losses.mean()),
        DISTANCE: sliced_wasserstein(drawn, data.real).mean,
    }
    if physics >= 2 and not missing_modules("physics"):
        residual = physics_residual(drawn[:physics].numpy(), gathers[:physics].numpy(), forward_model)
        values |= {RESIDUAL: residual.matched, SHUFFLED: residual.shuffled}
    return Figures(values, losses, drawn)


def report(config: Config, paths: RunPaths, count: int, physics: int) -> None:
    models, data = models_of(config, paths), held_out(config, paths)
    print(f"{len(data.real)} held-out pairs; engine {config.quant.backend}\n")
    print("| held-out figure | " + " | ".join(models) + " | exported / float |\n|---|---|---|---|---|")
    found = {name: figures_of(model, data, count, physics) for name, model in models.items()}
    reference, exported = found["float"], found["exported"]
    intervals = {
        LOSS: bootstrap_ratio(exported.losses.numpy(), reference.losses.numpy()),
        DISTANCE: ratio_interval(exported.drawn, reference.drawn, data.real),
    }
    for name, value in exported.values.items():
        before = reference.values[name]
        text = f"{value - before:+.4f}" if name == SSIM else f"{value / before:.4f}"
        if name in intervals:
            text += f" ({intervals[name].lower:.4f} to {intervals[name].upper:.4f})"
        print(row(name, [f.values[name] for f in found.values()], "" if name == SHUFFLED else text))
    floor = real_floor(data.real, data.train, count=count)
    rng = torch.Generator().manual_seed(1)
    noise, _seismic = decode(models["float"], torch.randn(count, 1, data.latents.shape[-1], generator=rng))
    sampler = models["QAT"].sampler
    ceiling = sliced_wasserstein(noise, data.real).mean
    print(f"\ndistribution distance of real maps {floor.mean:.4f}, of decoded noise {ceiling:.4f}; ", end="")
    print(f"sampler {sampler.solver}, {sampler.steps[0]} steps")


if __name__ == "__main__":
    main()
