"""Checkpoint files as the two upstream code bases write them, built from small models."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
from ubq.model.parts import DECODERS, PARTS
from ubq.upstream.names import upstream_names

SEISMIC = {"seismic_samples": 3, "receivers": 70}
UNET = ("unet", "diffusion")


def sizes_for(variant: str, **changed: Any) -> ModelSizes:
    return ModelSizes.from_dict(
        {
            "variant": variant,
            "encoder_dim": 16,
            "dim_mults": [1, 2, 2, 4] if variant == "paper" else [1, 2],
            "diffusion_steps": 8,
            "encoder_dims": [4, 8, 8, 16],
            "velocity_latent": 24,
            "velocity_dims": [4, 6, 8, 10, 12],
            "seismic_latent": 40,
            **SEISMIC,
            **changed,
        }
    )


def random_model(sizes: ModelSizes, seed: int = 0) -> UBDiff:
    torch.manual_seed(seed)
    model = UBDiff(sizes).eval()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_()
    model.sizes = sizes  # for those who write it down
    return model


def upstream_state(
    sizes: ModelSizes, model: UBDiff, parts: tuple[str, ...] = (*PARTS, "diffusion")
) -> dict[str, Tensor]:
    """The model's tensors under upstream's names, twice where upstream has them twice."""
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
    tensors = model.state_dict() | {f"diffusion.{k}": v for k, v in diffusion.state_dict().items()}
    names = upstream_names(sizes.variant, len(sizes.dim_mults), sizes.seismic_depth)
    assert set(names) == set(tensors)
    return OrderedDict(
        (upstream, tensors[ours])
        for ours, all_names in names.items()
        if ours.split(".")[0] in parts
        for upstream in all_names
        if "diffusion" in parts or not upstream.startswith("diffusion.")
    )


def adam_state(model: UBDiff) -> dict[str, Any]:
    unet = copy.deepcopy(model.unet)
    optimizer = torch.optim.AdamW(unet.parameters())
    unet(torch.randn(2, 1, 16), torch.tensor([0, 1])).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def fork_diffusion(sizes: ModelSizes, raw: UBDiff, averaged: UBDiff) -> dict[str, Any]:
    names = upstream_state(sizes, averaged, ("unet",))
    return {
        "step": 4000,
        "model": upstream_state(sizes, raw),
        "ema": {
            "ema_model": {n.removeprefix("unet."): t for n, t in names.items()},
            "step": torch.tensor(4000),
            "initted": torch.tensor(True),
        },
    }


def paper_diffusion(sizes: ModelSizes, raw: UBDiff, averaged: UBDiff) -> dict[str, Any]:
    online, ema = upstream_state(sizes, raw), upstream_state(sizes, averaged)
    return {
        "step": 5000,
        "model": online,
        "opt": adam_state(raw),
        "ema": OrderedDict(
            [("initted", torch.tensor(True)), ("step", torch.tensor(5000))]
            + [(f"online_model.{n}", t) for n, t in online.items()]
            + [(f"ema_model.{n}", t) for n, t in ema.items()]
        ),
        "scaler": None,
        "version": "1.9",
    }


def encoder_decoder(sizes: ModelSizes, model: UBDiff) -> dict[str, Any]:
    return {
        "epoch": 12,
        "step": 340,
        "model": upstream_state(sizes, model, ("encoder", *DECODERS)),
        "optimizer": adam_state(model),
        "scheduler": {"base_lrs": [1e-4], "last_epoch": 12, "_last_lr": [1e-5]},
        "best_ssim": np.float64(0.91),
        "best_loss": float("inf"),
    }


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state}, path)
    return path
