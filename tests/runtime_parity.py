"""What every runtime is held to: the integer model, and one U-Net step of the TorchScript file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ubq.export.lower.integer import IntegerLayer, StoredLayer
from ubq.runtime.generator import SteppingGenerator
from ubq.runtime.torchscript import TorchScriptGenerator


def assert_same_integers(stored: StoredLayer, layer: IntegerLayer) -> None:
    """The file's weight, scales, zero points, grids and bias are the integer model's, to the bit."""
    name, outputs = layer.name, len(layer.weight)
    assert stored.weight.dtype == np.int8, name
    np.testing.assert_array_equal(stored.weight.reshape(layer.weight.shape), layer.weight.numpy(), name)
    np.testing.assert_array_equal(stored.scales, layer.scales.expand(outputs).numpy(), name)
    assert not stored.zero_points.any(), name
    for grid, own in ((stored.input, layer.input), (stored.output, layer.output)):
        assert grid == (None if own is None else (float(np.float32(own.scale)), own.zero_point)), name
    if layer.input is None:
        np.testing.assert_array_equal(stored.bias, layer.bias.numpy(), name)
    else:
        units = layer.scales.expand(outputs).double() * layer.input.scale
        assert stored.bias.dtype == np.int32, name
        assert np.abs(stored.bias - (layer.bias.double() / units).numpy()).max() <= 1, name


def input_levels(layer: IntegerLayer) -> torch.Tensor:
    """Levels of a layer's input grid, drawn evenly: (2, I, H, W) or (3, I) uint8."""
    draws = torch.Generator().manual_seed(len(layer.name))
    inputs = layer.weight.shape[1] * layer.groups
    shape = (
        (2, inputs, *(1 if k == 1 else 6 for k in layer.weight.shape[2:])) if layer.weight.dim() == 4 else (3, inputs)
    )
    return torch.randint(0, layer.levels + 1, shape, generator=draws, dtype=torch.uint8)


def assert_within_one_step(levels: NDArray, layer: IntegerLayer, given: torch.Tensor) -> int:
    """Output levels are the reference's, give or take one; returns how many differ."""
    reference = layer.reference(given).numpy()
    apart = np.abs(levels.astype(np.int64) - reference)
    assert apart.max() <= 1, f"{layer.name}: {apart.max()} steps"
    return int((apart > 0).sum())


def assert_same_unet_step(ours: SteppingGenerator, torchscript: Path) -> None:
    """One whole U-Net step within 5 % of the TorchScript file's."""
    module = TorchScriptGenerator(torchscript, threads=1).module
    x = np.random.default_rng(0).standard_normal((4, 1, ours.latent_length)).astype(np.float32)
    for visited in ours.tables.times:
        time = np.full(4, visited)
        with torch.no_grad():
            wanted = module.unet(torch.from_numpy(x), torch.from_numpy(time)).numpy()
        assert np.linalg.norm(ours.unet(x, time) - wanted) <= 0.05 * np.linalg.norm(wanted)
