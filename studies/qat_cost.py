"""What fake quantisation costs a training step: the same step in float and fake-quantised, in one process.

``python studies/qat_cost.py [--rounds 7] [--threads 1] [--dim 512] [--mults 1,2,2,2] [--batch 16]``

Steps of both kinds alternate, so that whatever else the machine does meets both; medians are compared, in seconds of
processor time and of wall time. A step is forward, backward, gradient clipping, AdamW and the moving average, with
the heap kept between steps, as the training loop takes it. The seismic head is the full-size one: 640 -> 350,000,
224 M weights. Prints Markdown; exits with 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ubq.config.schema import QuantConfig
from ubq.model import GaussianDiffusion, ModelSizes, build_part
from ubq.quant.layers import QConv2d, QLinear, QLinearDynamic
from ubq.quant.phases import set_phase
from ubq.quant.prepare import calibrate
from ubq.quant.rewrites import convert_conv1d
from ubq.stages.heap import kept_heap
from ubq.training.ema import WeightAverage

LIMITS = {"U-Net": 1.4, "seismic head": 1.6}
"""Most that a fake-quantised step may take, in float steps."""

Step = Callable[[], None]


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """One whole step of the training loop."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    average = WeightAverage(model, 0.995)

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update()

    return step


def fake_quantised(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Swap the weight layers below ``model``, calibrate, and quantise everything."""
    quant = QuantConfig()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d):
            model.set_submodule(name, QConv2d(layer, quant))
        elif isinstance(layer, nn.Linear):
            model.set_submodule(name, (QLinearDynamic if name == "head" else QLinear)(layer, quant))
    with torch.no_grad():
        calibrate(model, [loss])
    set_phase(model, "activations")  # observers still look: the dearest phase


def unet_steps(dim: int, mults: tuple[int, ...], batch: int) -> tuple[Step, Step]:
    """A step of the rewritten U-Net in float, and of another one fake-quantised."""
    sizes = ModelSizes(variant="fork", encoder_dim=dim, dim_mults=mults)
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
    x, noise = torch.rand(batch, 1, dim) * 2 - 1, torch.randn(batch, 1, dim)
    times = torch.randint(sizes.diffusion_steps, (batch,))

    def made(quantised: bool) -> Step:
        torch.manual_seed(0)
        unet = build_part(sizes, "unet")
        unet.add_module("time_mlp", nn.Identity())  # the fork computes it and uses it nowhere
        convert_conv1d(unet)

        def loss() -> Tensor:
            return diffusion.loss(unet, x, times, noise)

        if quantised:
            fake_quantised(unet, loss)
        return training_step(unet, loss)

    return made(False), made(True)


def head_steps(batch: int) -> tuple[Step, Step]:
    """The same for the seismic head alone, with the loss of its stage."""
    sizes = ModelSizes()
    outputs = sizes.sources * sizes.seismic_samples * sizes.receivers
    x, target = torch.randn(batch, sizes.seismic_latent), torch.rand(batch, outputs) * 2 - 1

    def made(quantised: bool) -> Step:
        torch.manual_seed(0)
        model = nn.Sequential()
        model.add_module("head", nn.Linear(sizes.seismic_latent, outputs))

        def loss() -> Tensor:
            difference = model(x) - target
            return difference.abs().mean() + difference.square().mean()

        if quantised:
            fake_quantised(model, loss)
        return training_step(model, loss)

    return made(False), made(True)


def compare(steps: tuple[Step, Step], rounds: int) -> tuple[list[float], list[float]]:
    """Median processor and wall seconds of a float and of a fake-quantised step; a first round is left out."""
    taken: list[list[tuple[float, float]]] = [[], []]
    for _round in range(rounds + 1):
        for kind, step in enumerate(steps):
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            taken[kind].append((time.process_time() - cpu, time.perf_counter() - wall))
    columns = [list(zip(*kind[1:], strict=True)) for kind in taken]
    return [statistics.median(c[0]) for c in columns], [statistics.median(c[1]) for c in columns]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--mults", default="1,2,2,2")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", choices=LIMITS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    mults = tuple(int(m) for m in arguments.mults.split(","))
    makers: dict[str, Callable[[], tuple[Step, Step]]] = {
        "U-Net": lambda: unet_steps(arguments.dim, mults, arguments.batch),
        "seismic head": lambda: head_steps(arguments.batch),
    }
    print(f"U-Net ({arguments.dim}; {arguments.mults}), batch {arguments.batch}, {arguments.threads} threads, "
          f"medians of {arguments.rounds} alternating steps\n")  # fmt: skip
    print("| step | float s | fake-quantised s | ratio | wall ratio | limit |\n|---|---|---|---|---|---|")
    over = False
    for name, make in makers.items():
        if arguments.only in (None, name):
            with kept_heap():
                cpu, wall = compare(make(), arguments.rounds)
            ratio = cpu[1] / cpu[0]
            over |= ratio > LIMITS[name]
            print(f"| {name} | {cpu[0]:.2f} | {cpu[1]:.2f} | {ratio:.2f} | {wall[1] / wall[0]:.2f} | {LIMITS[name]} |",
                  flush=True)  # fmt: skip
    return int(over)


if __name__ == "__main__":
    raise SystemExit(main())
