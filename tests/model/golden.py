"""The strict comparison of a golden file with our model: every array is read, every difference reported.

A golden file holds ``<module>/state/<name>``, ``<module>/in/<x>``, ``<module>/out/<y>``,
``diffusion/buffer/<name>`` and ``hyper``, the sizes as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
from ubq.upstream.names import our_name

Arrays = Mapping[str, np.ndarray]

MODULES = ("encoder", "velocity_projector", "velocity_decoder", "seismic_projector", "seismic_decoder", "unet")
UPSTREAM_PREFIX = {
    "fork": {
        "encoder": "encoder.",
        "velocity_projector": "dual_decoder.velocity_projector.",
        "velocity_decoder": "dual_decoder.velocity_decoder.",
        "seismic_projector": "dual_decoder.seismic_projector.",
        "seismic_decoder": "dual_decoder.seismic_decoder.",
        "unet": "unet.",
    },
    "paper": {
        "encoder": "encoder.",
        "velocity_projector": "",
        "velocity_decoder": "decoder_v.",
        "seismic_projector": "",
        "seismic_decoder": "decoder_s.",
        "unet": "unet.",
    },
}
MODULE_TOLERANCE = 1e-5
CHAIN_TOLERANCE = 1e-4
BUFFER_TOLERANCE = 1e-6
KNOWN_DIGESTS = {
    "fork": {
        "diffusion": "32083ac80ce51448768169e3664ee312998cc8875c48d1ff02a0595623f781bb",
        "encoder": "e4bf9340e2f4677ba24c9b1bca493fb50a26fcb412b5bbff6c70df958275b070",
        "hyper": "1a377244cbc93d2e97dbdb247316b025274d207c553a6535a8eaa4d0fc5bdfa6",
        "seismic_decoder": "3f969c42dbd224579c2e0b36421637e53f622526affe37e3c125240d237e60cd",
        "seismic_projector": "1a4cf13ce9322c4ce603dfa233b891a5a7126cd079eeadd7e7cb0b83f7f10f02",
        "unet": "e9d5878d41001ba9d69186fc5232c52555658060cc79c999f1c6acf62f865314",
        "velocity_decoder": "b65e25c042e94f76f2f0089337244dd234b97d8a9237b377e70f284fa41c3ee3",
        "velocity_projector": "d7c3850408bb184bec4eff635fdb21620c2075ecf61112a2fd1162a5bb284215",
    },
    "paper": {
        "diffusion": "7e2221eeaa62790083037dfd1c5d5e8c520c8b1293b0156b38b32759bcc3ba7b",
        "encoder": "a56b79486767888422783d7240b5b6c98eac77756da6a471327fc8103bdc1ec5",
        "hyper": "4752a4cf5364f0314d45bb1e32230ec65e96336d4f4b83d93a445c43cb0dedca",
        "seismic_decoder": "752afaa9befb8a2a170d274aa5051e2fb187e2243aab038c326524b8323d0d32",
        "seismic_projector": "aed91487dda0f734b682c6ef9c88695eb98742ab86e5fecd963ba294ea9b207d",
        "unet": "16003c1730e2eb8f1046e07238d414cb20a24422d4489a4bef399756269f0fcc",
        "velocity_decoder": "793baf02bb3d6e61cfb8ec4856d04d71862b8a0ac16d8cbe7839eb1c53c212e8",
        "velocity_projector": "fceafa1f49e2700d33d4e3da677969918eaa297742fd2cdbb6b91c4894771cfd",
    },
}
"""Digests of the two reference files."""


def read_golden(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def variant_of(arrays: Arrays) -> str:
    return "paper" if any("convBlock" in name for name in arrays) else "fork"


def sizes_of(arrays: Arrays) -> ModelSizes:
    """The sizes that ``hyper`` writes down, in our keys."""
    hyper = json.loads(arrays["hyper"].tobytes().decode())
    seismic, unet = hyper["seismic_decoder"], hyper["unet"]
    return ModelSizes(
        variant=variant_of(arrays),
        encoder_dim=hyper["encoder"]["dims"][-1],
        encoder_dims=tuple(hyper["encoder"]["dims"][:-1]),
        unet_dim=unet["dim"],
        dim_mults=tuple(unet["dim_mults"]),
        norm_groups=unet["resnet_block_groups"],
        attention_heads=unet["attention_heads"],
        attention_dim_head=unet["attention_dim_head"],
        diffusion_steps=hyper["diffusion"]["timesteps"],
        objective={"pred_v": "v", "pred_noise": "noise", "pred_x0": "x0"}[hyper["diffusion"]["objective"]],
        velocity_latent=hyper["velocity_projector"]["decoder_dim"],
        velocity_dims=tuple(hyper["velocity_decoder"]["dims"]),
        seismic_latent=seismic["latent_dim"],
        seismic_depth=seismic["depth"],
        seismic_heads=seismic["heads"],
        seismic_mlp_ratio=seismic["mlp_ratio"],
        sources=seismic["out_channels"],
        seismic_samples=seismic["nt"],
        receivers=seismic["receivers"],
    )


@dataclass
class Reproduced:
    """What our model makes of a golden file's states and inputs."""

    results: dict[str, tuple[Tensor, float]]
    """Name of a result -> our value and the tolerance, relative to the largest reference value."""
    read: set[str]
    """Names of the states and inputs that went in."""
    unequal_duplicates: list[str]


def reproduce(arrays: Arrays) -> Reproduced:
    """Run our model on a golden file's states and inputs."""
    sizes = sizes_of(arrays)
    model = UBDiff(sizes).eval()
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant)
    out = Reproduced({}, {"hyper"}, [])

    def read(name: str) -> Tensor:
        out.read.add(name)
        return torch.from_numpy(arrays[name])

    state: dict[str, Tensor] = {}
    for module in MODULES:
        prefix = f"{module}/state/"
        for name in [n for n in arrays if n.startswith(prefix)]:
            ours = our_name(UPSTREAM_PREFIX[sizes.variant][module] + name.removeprefix(prefix))
            assert ours is not None, name
            value = read(name)
            # tensors that upstream stores twice
            if ours in state and not torch.equal(state[ours], value):
                out.unequal_duplicates.append(name)
            state[ours] = value
    model.load_state_dict(state)

    with torch.no_grad():
        for module in MODULES:
            inputs = [read(n) for n in arrays if n.startswith(f"{module}/in/")]
            (result,) = (n for n in arrays if n.startswith(f"{module}/out/"))
            out.results[result] = (getattr(model, module)(*inputs), MODULE_TOLERANCE)
        for name in [n for n in arrays if n.startswith("diffusion/buffer/")]:
            out.results[name] = (diffusion.get_buffer(name.removeprefix("diffusion/buffer/")), BUFFER_TOLERANCE)
        start, time, noise = (read(f"diffusion/in/{n}") for n in ("x_start", "time", "noise"))
        out.results["diffusion/out/loss"] = (diffusion.loss(model.unet, start, time, noise), MODULE_TOLERANCE)
        x_T, step_noise = read("diffusion/in/x_T"), read("diffusion/in/step_noise")
        out.results["diffusion/out/sample"] = (diffusion.sample_ddpm(model.unet, x_T, step_noise), CHAIN_TOLERANCE)
    return out


def differences(arrays: Arrays, ours: Reproduced | None = None) -> list[str]:
    """What in a golden file our model does not reproduce; empty when all of it is."""
    ours = ours or reproduce(arrays)
    found = [f"{name}: not equal to its duplicate" for name in ours.unequal_duplicates]
    for name, (value, tolerance) in ours.results.items():
        reference = torch.from_numpy(np.asarray(arrays[name]))
        if value.shape != reference.shape:
            found.append(f"{name}: shape {tuple(value.shape)}, not {tuple(reference.shape)}")
        elif not (value - reference).abs().max() <= tolerance * reference.abs().max():
            worst = ((value - reference).abs().max() / reference.abs().max()).item()
            found.append(f"{name}: off by {worst:.1e} of its largest value")
    unread = set(arrays) - ours.read - set(ours.results)
    return found + [f"{name}: nothing was compared with it" for name in sorted(unread)]


def digests(arrays: Arrays) -> dict[str, str]:
    """SHA-256 of each module's arrays together: names, types, shapes and bytes."""
    hashes: dict[str, hashlib._Hash] = {}
    for name in sorted(arrays):
        h = hashes.setdefault(name.split("/")[0], hashlib.sha256())
        h.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode())
        h.update(arrays[name].tobytes())
    return {module: h.hexdigest() for module, h in hashes.items()}


def altered(arrays: Arrays) -> list[str]:
    """Modules in which a known reference file was changed; empty for an intact or an unknown file.

    No output shows a change of some weights: a constant on a bias before GroupNorm or LayerNorm is
    subtracted again, and the unused tensors reach nothing. So a file that agrees with a known
    reference in one module must agree with it in all.
    """
    ours = digests(arrays)
    for known in KNOWN_DIGESTS.values():
        if any(ours.get(module) == digest for module, digest in known.items() if module != "hyper"):
            return [module for module in known if ours.get(module) != known[module]]
    return []
