"""An exported model whose weights are random bytes: all but the sample run is the same for it."""

from __future__ import annotations

import random
from pathlib import Path

from ubq.export.manifest import write_manifest
from ubq.runtime.facts import Facts

MODEL_BYTES = 3_000_000


def exported_folder(folder: Path) -> Path:
    """A folder exported_models with a model of random bytes in TorchScript and ONNX."""
    folder.mkdir()
    names = ("toy.pt", "toy.onnx", "toy.decoders.onnx", "toy_info.txt", "deployment_guide.md")
    for name in names:
        size = MODEL_BYTES if name == "toy.pt" else 1000
        (folder / name).write_bytes(random.Random(name).randbytes(size))
    facts = Facts(
        name="toy", family="curvefault-a", quantised=True, backend="qnnpack", solver="dpmpp2m", steps=4,
        step_counts=(2, 4), model={"encoder_dim": 16, "dim_mults": (1, 2), "variant": "paper", "diffusion_steps": 16},
        normalization={"velocity_min": 1500.0, "velocity_max": 4500.0, "amplitude_min": -25.0, "amplitude_max": 50.0},
        velocity_shape=(1, 70, 70), seismic_shape=(5, 1000, 70), versions={"ubq": "0"},
    )  # fmt: skip
    write_manifest(folder, facts, [folder / name for name in names], "0" * 64)
    return folder
