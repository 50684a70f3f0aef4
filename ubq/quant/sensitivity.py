"""What quantising each layer costs, and which layers to leave in float to stay within a budget.

Errors are relative L2 distances between outputs on the same inputs: of the U-Net for one step, of
each decoder on its normalised scale.

A layer's own noise says little about what the output makes of it, and an evaluation for every layer
takes long. So all of them are estimated together to first order: with J the Jacobian of the output
by a layer's output and e the layer's noise, E[(v'Je)^2] = |Je|^2 over normal directions v
(Hutchinson 1989), and one backward pass gives v'J for every layer. Only the worst are measured.

Shapes: B batch, L latent length.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ubq.config.schema import QuantConfig
from ubq.model.parts import DEPLOYED
from ubq.quant.generator import Generator, part_of
from ubq.quant.layers import QuantLayer
from ubq.quant.phases import phase_set, quant_layers

WORST = 10
"""Layers of a part that are measured, not estimated: alone, and what leaving them in float gives back."""
DIRECTIONS = 4
"""Backward passes of the estimate; each of B samples counts apart, so its error is about 1 / sqrt(2 B DIRECTIONS)."""
FIRST_ORDER_ABOVE = 20.0
"""SQNR in dB below which a layer's relative noise stands in for a smaller estimate: noise that all but wipes out a
layer lies along its output, where a normalisation behind it has no slope."""


@dataclass(frozen=True)
class HeldOutInputs:
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
        part: of ``DEPLOYED``.
        sqnr_db: signal to quantisation noise of the layer's own output, inputs in float; decibels.
        alone: error of the part's output when this layer alone is quantised.
        given_back: error of the fully quantised part, less that with this layer in float; None where not measured.
        measured: whether ``alone`` is measured; otherwise it is the first-order estimate.
    """

    name: str
    part: str
    sqnr_db: float
    alone: float
    given_back: float | None = None
    measured: bool = True


def part_error(generator: Generator, part: str, inputs: HeldOutInputs) -> float:
    """Error of one part as it is now, against itself in float."""
    run = _runner(generator, part, inputs)
    with torch.no_grad(), phase_set(generator, "float"):
        reference = run()
    with torch.no_grad():
        return _relative(run(), reference)


@torch.no_grad()
def layer_sensitivities(
    generator: Generator, inputs: HeldOutInputs, parts: Iterable[str] = tuple(DEPLOYED), worst: int | None = WORST
) -> list[Sensitivity]:
    """Every fake-quantised layer of some parts, the most harmful first.

    Args:
        generator: calibrated; it comes back as it was.
        inputs: inputs.
        parts: names of ``DEPLOYED``.
        worst: layers of each part that are measured, two evaluations each; None: all of them.
    """
    sensitivities: list[Sensitivity] = []
    with phase_set(generator, "float"):
        for part in parts:
            layers = {n: layer for n, layer in quant_layers(generator).items() if part_of(n) == part}
            if layers:
                sensitivities += _part_sensitivities(layers, part, _runner(generator, part, inputs), worst)
    return sorted(sensitivities, key=lambda s: -s.alone)


def _part_sensitivities(
    layers: dict[str, QuantLayer], part: str, run: Callable[[], Tensor], worst: int | None
) -> list[Sensitivity]:
    reference, sqnr, alone = _estimates(layers, run)
    chosen = sorted(alone, key=lambda n: -alone[n])[:worst]
    for name in chosen:
        layers[name].phase = "frozen"
        alone[name] = _relative(run(), reference)
        layers[name].phase = "float"
    given_back: dict[str, float] = {}
    if chosen:
        for layer in layers.values():
            layer.phase = "frozen"
        everything = _relative(run(), reference)
        for name in chosen:
            layers[name].phase = "float"
            given_back[name] = everything - _relative(run(), reference)
            layers[name].phase = "frozen"
        for layer in layers.values():
            layer.phase = "float"
    return [Sensitivity(n, part, sqnr[n], alone[n], given_back.get(n), n in given_back) for n in alone]


def _estimates(
    layers: dict[str, QuantLayer], run: Callable[[], Tensor]
) -> tuple[Tensor, dict[str, float], dict[str, float]]:
    """Output of a part in float, and each layer's SQNR and first-order error of that output; layers that run only."""
    outputs: dict[str, Tensor] = {}
    signals: dict[str, Tensor] = {}
    noises: dict[str, Tensor] = {}

    def measure(name: str, layer: QuantLayer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        hooks.pop(name).remove()  # the quantised call below must not come back here
        if not output.requires_grad:
            output.requires_grad_()
        with torch.no_grad():
            layer.phase = "frozen"
            signals[name] = layer.kept(output.detach())
            noises[name] = layer.kept(layer(*inputs)) - signals[name]
            layer.phase = "float"
        outputs[name] = output

    hooks: dict[str, Any] = {
        name: layer.register_forward_hook(lambda m, i, o, name=name: measure(name, m, i, o))
        for name, layer in layers.items()
    }
    with torch.enable_grad():
        reference = run()
    for hook in hooks.values():  # of layers that this part's run does not reach
        hook.remove()
    rng = torch.Generator().manual_seed(0)
    squares = dict.fromkeys(outputs, 0.0)
    for k in range(DIRECTIONS):
        direction = torch.randn(reference.shape, generator=rng).to(reference)
        gradients = torch.autograd.grad(
            reference, list(outputs.values()), direction, retain_graph=k < DIRECTIONS - 1, allow_unused=True
        )
        for name, gradient in zip(outputs, gradients, strict=True):
            if gradient is not None:
                products = (gradient * noises[name]).flatten(1).sum(dim=1)
                squares[name] += float(products.square().sum()) / DIRECTIONS
    norm = float(reference.detach().norm().clamp(min=1e-12))
    sqnr = {name: _decibels(signals[name], noise) for name, noise in noises.items()}
    alone = {name: math.sqrt(square) / norm for name, square in squares.items()}
    for name, decibels in sqnr.items():
        if decibels < FIRST_ORDER_ABOVE:
            alone[name] = max(alone[name], 10 ** (-decibels / 20))
    return reference.detach(), sqnr, alone


def _decibels(signal: Tensor, noise: Tensor) -> float:
    return 10 * math.log10(max(float(signal.square().sum()), 1e-30) / max(float(noise.square().sum()), 1e-30))


@torch.no_grad()
def layers_to_keep_float(
    generator: Generator, quant: QuantConfig, inputs: HeldOutInputs, parts: Iterable[str] = tuple(DEPLOYED)
) -> tuple[str, ...]:
    """Names of layers, most harmful first, to leave in float so that ``quant.max_quality_loss`` holds.

    How many is found by bisection: about seven evaluations of a part of a hundred layers.

    Args:
        generator: calibrated; it comes back as it was.
        quant: with the budget; none is asked for at 0.
        inputs: inputs.
        parts: names of ``DEPLOYED``, each of which must stay within the budget.
    """
    if quant.max_quality_loss == 0:
        return ()
    in_float: list[str] = []
    layers = quant_layers(generator)
    ranked = layer_sensitivities(generator, inputs, parts)
    with phase_set(generator, "frozen"):
        generator.eval()
        for part in parts:
            queue = [s.name for s in ranked if s.part == part]

            def holds(count: int, part: str = part, queue: list[str] = queue) -> bool:
                for i, name in enumerate(queue):
                    layers[name].phase = "float" if i < count else "frozen"
                return part_error(generator, part, inputs) <= quant.max_quality_loss

            count = bisect.bisect_left(range(len(queue)), True, key=holds)  # with all of them in float it holds
            in_float += queue[:count]
            for i, name in enumerate(queue):
                layers[name].phase = "float" if i < count else "frozen"
    return tuple(in_float)


def as_table(sensitivities: Iterable[Sensitivity]) -> str:
    """For people: the ranked table, one layer a line; ``~`` before what is estimated."""
    lines = [f"{'layer':62} {'SQNR dB':>8} {'alone':>9} {'in float gives back':>20}"]
    for s in sensitivities:
        back = "" if s.given_back is None else f"{100 * s.given_back:.3f} %"
        alone = f"{'' if s.measured else '~'}{100 * s.alone:.3f} %"
        lines.append(f"{s.name:62} {s.sqnr_db:8.1f} {alone:>9} {back:>20}")
    return "\n".join(lines) + "\n"


def _runner(generator: Generator, part: str, inputs: HeldOutInputs) -> Callable[[], Tensor]:
    z = inputs.latent.flatten(1)
    if part == "diffusion":
        return lambda: generator.unet(inputs.x, inputs.time)
    if part == "velocity":
        return lambda: generator.velocity_decoder(generator.velocity_projector(z))
    return lambda: generator.seismic_decoder(generator.seismic_projector(z))


def _relative(output: Tensor, reference: Tensor) -> float:
    return float((output - reference).norm() / reference.norm().clamp(min=1e-12))
