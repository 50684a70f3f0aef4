"""What quantisation did to a finished run: float, fake-quantised and exported side by side, and time per stage.

``python bench/quality.py RUN_FOLDER [--pairs 256] [--physics 16]`` prints Markdown tables. All three are given the
same held-out maps, latents, noise and time steps; the exported file runs under the engine it was made for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ubq.config.extras import missing_modules
from ubq.config.load import read_frozen
from ubq.config.schema import Config
from ubq.data.forward import forward_model
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


def models_of(config: Config, paths: RunPaths) -> dict[str, Model]:
    """The pretrained float generator, the fake-quantised one, and the exported file."""
    recipe = recipe_of(config, paths)
    with torch.device("meta"):
        model = UBDiff(recipe.sizes)
    for name, part in trained_parts(config, paths, tuple(p for p in PARTS if p != "encoder"), CPU).items():
        setattr(model, name, part)
    return {
        "float": deployable(model, recipe, keep_model=False).eval(),
        "QAT": load_qat(paths.checkpoints("qat-diffusion") / "final_qat_model.pt").generator.eval(),
        "exported": load_torchscript(paths.exported / f"{name_of(config, paths)}.pt", config.quant.backend),
    }


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


def report(config: Config, paths: RunPaths, count: int, physics: int) -> None:
    models = models_of(config, paths)
    recipe = recipe_of(config, paths)
    scale, sizes = recipe.normalization, recipe.sizes
    split = open_pairs(data_of(config, paths), config.seed, True, seismic_shape(config))
    latents = load_latents(paths, CPU).val[:, None]
    chosen = range(min(len(split.val), 256))
    maps, gathers = split.val.velocity_batch(chosen), split.val.seismic_batch(chosen)
    print(f"{len(split.train)} training and {len(split.val)} held-out pairs; engine {config.quant.backend}\n")
    print("| held-out figure | " + " | ".join(models) + " | exported / float |\n|---|---|---|---|---|")
    decoded = {name: decode(model, latents[: len(maps)]) for name, model in models.items()}
    low, high = scale.velocity_min, scale.velocity_max
    similar = [ssim(v, maps, low, high) for v, _ in decoded.values()]
    print(row("velocity SSIM", similar, f"{similar[-1] - similar[0]:+.4f}"))
    wrong = [relative_l2(scale.velocity(v), scale.velocity(maps)) for v, _ in decoded.values()]
    print(row("velocity relative L2, normalised", wrong, f"{wrong[-1] / wrong[0]:.4f}"))
    errors = [seismic_error(s, gathers, scale.seismic) for _, s in decoded.values()]
    for title, field in (
        ("seismic relative L2, log-normalised", "log_normalised"),
        ("seismic relative L2, physical", "physical"),
        ("seismic relative L2, t > 0.6 s, log-normalised", "late_log_normalised"),
        ("seismic relative L2, t > 0.6 s, physical", "late_physical"),
    ):
        figures = [getattr(e, field) for e in errors]
        print(row(title, figures, f"{figures[-1] / figures[0]:.4f}"))
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
    sampler = models["QAT"].sampler
    losses = {n: diffusion_losses(m, diffusion, sampler.times, latents) for n, m in models.items()}
    interval = bootstrap_ratio(losses["exported"].numpy(), losses["float"].numpy())
    text = f"{interval.value:.4f} ({interval.lower:.4f} to {interval.upper:.4f})"
    print(row("diffusion loss", [float(x.mean()) for x in losses.values()], text))
    steps = sampler.steps[0]
    generated = {n: decode(m, draw(m, count, sizes.encoder_dim, steps)) for n, m in models.items()}
    real = split.val.velocity_batch(range(len(split.val)))
    distances = [sliced_wasserstein(v, real).mean for v, _ in generated.values()]
    interval = ratio_interval(generated["exported"][0], generated["float"][0], real)
    text = f"{interval.value:.4f} ({interval.lower:.4f} to {interval.upper:.4f})"
    print(row("distribution distance", distances, text))
    if physics >= 2 and not missing_modules("physics"):
        residuals = [
            physics_residual(v[:physics].numpy(), s[:physics].numpy(), forward_model) for v, s in generated.values()
        ]
        matched = [r.matched for r in residuals]
        print(row("physics residual of generated pairs", matched, f"{matched[-1] / matched[0]:.4f}"))
        print(row("the same with pairs shuffled", [r.shuffled for r in residuals]))
    floor = real_floor(real, split.train.velocity_batch(range(min(len(split.train), 1000))), count=count)
    noise = decode(
        models["float"], torch.randn(count, 1, sizes.encoder_dim, generator=torch.Generator().manual_seed(1))
    )
    print(f"\ndistribution distance of real maps {floor.mean:.4f}, of decoded noise "
          f"{sliced_wasserstein(noise[0], real).mean:.4f}; sampler {sampler.solver}, {steps} steps")  # fmt: skip


if __name__ == "__main__":
    main()
