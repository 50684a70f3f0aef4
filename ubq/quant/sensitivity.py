"""What quantising each layer costs, and which layers to leave in float to stay within a budget.

Errors are relative L2 distances between outputs on the same inputs: of the U-Net for one step, of
each decoder on its normalised scale.

Shapes: B batch, L latent length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ubq.config.schema import QuantConfig
from ubq.quant.generator import PARTS, Generator, part_of
from ubq.quant.layers import QuantLayer
from ubq.quant.phases import phase_set, quant_layers

WORST = 10
"""Layers for which it is measured what leaving them in float gives back."""


@dataclass(frozen=True)
class Probe:
    """Inputs that layers are judged on.

    Attributes:
        x: noisy latents (B, 1, L).
        time: their time steps (B,).
        latent: clean latents (B, 1, L).
    """

    x: Tensor
    time: Tensor
    latent: Tensor


@dataclass(frozen=True)
class Sensitivity:
    """One layer's share in the error.

    Attributes:
        name: of the layer.
        part: of ``PARTS``.
        sqnr_db: signal to quantisation noise of the layer's own output, inputs in float; decibels.
        alone: error of the part's output when this layer alone is quantised.
        given_back: error of the fully quantised part, less that with this layer in float; None where not measured.
    """

    name: str
    part: str
    sqnr_db: float
    alone: float
    given_back: float | None = None


def part_error(generator: Generator, part: str, probe: Probe) -> float:
    """Error of one part as it is now, against itself in float."""
    run = _runner(generator, part, probe)
    with torch.no_grad(), phase_set(generator, "float"):
        reference = run()
    with torch.no_grad():
        return _relative(run(), reference)


@torch.no_grad()
def layer_sensitivities(
    generator: Generator, probe: Probe, parts: Iterable[str] = tuple(PARTS), worst: int = WORST
) -> list[Sensitivity]:
    """Every fake-quantised layer of some parts, the most harmful first.

    Args:
        generator: calibrated; it comes back as it was.
        probe: inputs.
        parts: names of ``PARTS``.
        worst: layers of each part for which ``given_back`` is measured.
    """
    found: list[Sensitivity] = []
    with phase_set(generator, "float"):
        for part in parts:
            layers = {n: layer for n, layer in quant_layers(generator).items() if part_of(n) == part}
            if layers:
                found += _part_sensitivities(layers, part, _runner(generator, part, probe), worst)
    return sorted(found, key=lambda s: -s.alone)


def _part_sensitivities(
    layers: dict[str, QuantLayer], part: str, run: Callable[[], Tensor], worst: int
) -> list[Sensitivity]:
    sqnr: dict[str, float] = {}

    def measure(name: str, layer: QuantLayer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        hooks.pop(name).remove()  # the quantised call below must not come back here
        layer.phase = "frozen"
        noise = (layer(*inputs) - output).square().sum()
        layer.phase = "float"
        sqnr[name] = 10 * math.log10(max(float(output.square().sum()), 1e-30) / max(float(noise), 1e-30))

    hooks: dict[str, Any] = {
        name: layer.register_forward_hook(lambda m, i, o, name=name: measure(name, m, i, o))
        for name, layer in layers.items()
    }
    reference = run()
    for hook in hooks.values():  # of layers that this part's run does not reach
        hook.remove()
    alone: dict[str, float] = {}
    for name in sqnr:
        layers[name].phase = "frozen"
        alone[name] = _relative(run(), reference)
        layers[name].phase = "float"
    ranked = sorted(alone, key=lambda n: -alone[n])
    for layer in layers.values():
        layer.phase = "frozen"
    everything = _relative(run(), reference)
    given_back: dict[str, float] = {}
    for name in ranked[:worst]:
        layers[name].phase = "float"
        given_back[name] = everything - _relative(run(), reference)
        layers[name].phase = "frozen"
    for layer in layers.values():
        layer.phase = "float"
    return [Sensitivity(n, part, sqnr[n], alone[n], given_back.get(n)) for n in ranked]


@torch.no_grad()
def layers_to_keep_float(
    generator: Generator, quant: QuantConfig, probe: Probe, parts: Iterable[str] = tuple(PARTS)
) -> tuple[str, ...]:
    """Names of layers, most harmful first, to leave in float until ``quant.max_quality_loss`` holds.

    Args:
        generator: calibrated; it comes back as it was.
        quant: with the budget; none is asked for at 0.
        probe: inputs.
        parts: names of ``PARTS``, each of which must stay within the budget.
    """
    if quant.max_quality_loss == 0:
        return ()
    kept: list[str] = []
    layers = quant_layers(generator)
    ranked = layer_sensitivities(generator, probe, parts, worst=0)
    with phase_set(generator, "frozen"):
        generator.eval()
        for part in parts:
            queue = [s.name for s in ranked if s.part == part]
            while queue and part_error(generator, part, probe) > quant.max_quality_loss:
                kept.append(queue.pop(0))
                layers[kept[-1]].phase = "float"
    return tuple(kept)


def as_table(sensitivities: Iterable[Sensitivity]) -> str:
    """For people: the ranked table, one layer a line."""
    lines = [f"{'layer':62} {'SQNR dB':>8} {'alone':>9} {'in float gives back':>20}"]
    for s in sensitivities:
        back = "" if s.given_back is None else f"{100 * s.given_back:.3f} %"
        lines.append(f"{s.name:62} {s.sqnr_db:8.1f} {100 * s.alone:7.3f} % {back:>20}")
    return "\n".join(lines) + "\n"


def _runner(generator: Generator, part: str, probe: Probe) -> Callable[[], Tensor]:
    z = probe.latent.flatten(1)
    if part == "diffusion":
        return lambda: generator.unet(probe.x, probe.time)
    if part == "velocity":
        return lambda: generator.velocity_decoder(generator.velocity_projector(z))
    return lambda: generator.seismic_decoder(generator.seismic_projector(z))


def _relative(output: Tensor, reference: Tensor) -> float:
    return float((output - reference).norm() / reference.norm().clamp(min=1e-12))
