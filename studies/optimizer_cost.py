"""Seconds of an optimiser's step on the demo's U-Net, with its gradients given: what Muon adds to a training step.

``python studies/optimizer_cost.py [--threads 1] [--rounds 21]`` prints a Markdown table; all take turns in one process.
``torch.optim.Muon`` is given the same matrices, flattened to the two dimensions it takes.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from ubq.bench.timing import machine, markdown, take_turns
from ubq.config.load import load_config
from ubq.config.schema import DiffusionTraining
from ubq.model import ModelSizes, build_part
from ubq.training.optimizer import StageOptimizer, is_matrix

CPU = torch.device("cpu")


def with_gradients(unet: nn.Module) -> nn.Module:
    for parameter in unet.parameters():
        parameter.grad = torch.randn_like(parameter)
    return unet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    sizes = ModelSizes.from_dict(load_config("demo", isolated=True).config.model.model_dump())
    unet = with_gradients(build_part(sizes, "unet"))
    flat = [nn.Parameter(p.detach().flatten(1).clone()) for p in unet.parameters() if is_matrix(p)]
    for parameter in flat:
        parameter.grad = torch.randn_like(parameter)
    calls = {
        "AdamW": StageOptimizer(unet, DiffusionTraining(), CPU).step,
        "Muon, matrices of one shape together, AdamW for the rest": StageOptimizer(
            unet, DiffusionTraining(optimizer="muon"), CPU
        ).step,
        "torch.optim.Muon, the same matrices": torch.optim.Muon(flat).step,
    }
    timings = take_turns(calls, arguments.rounds, warmup=3)
    print(markdown(["optimiser", "ms a step"], [[name, f"{t.median * 1e3:.1f}"] for name, t in timings.items()]))
    print(f"\nU-Net of the demo, {len(flat)} matrices; {arguments.threads} threads; {machine()}")


if __name__ == "__main__":
    main()
