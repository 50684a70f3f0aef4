"""Warm-up of quantisation-aware training: what the fake-quantised layers do at which step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ubq.quant.layers import PHASES, QuantLayer

TRAINING_PHASES = ("observe", "weights", "activations", "frozen")
"""In the order of training: observers only; weights fake-quantised; activations too; observers frozen."""


def phase_at(step: int, steps: int, warmup: Sequence[float]) -> str:
    """Phase of a training step.

    Args:
        step: steps already taken.
        steps: steps of the whole stage.
        warmup: shares of the steps at which weights, then activations are fake-quantised, then observers frozen.
    """
    return TRAINING_PHASES[sum(step >= share * steps for share in warmup)]


def set_phase(model: nn.Module, phase: str) -> None:
    """Put every fake-quantised layer below ``model`` into a phase.

    Training phases put the model into training mode; ``float`` (no quantisation at all) and
    ``calibrate`` (float, observing) into evaluation mode.

    Raises:
        ValueError: an unknown phase.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
    model.train(phase in TRAINING_PHASES)
    for layer in quant_layers(model).values():
        layer.phase = phase


@contextmanager
def phase_set(model: nn.Module, phase: str) -> Iterator[None]:
    """The model is in ``phase`` inside the block; every layer's own phase and mode come back after it."""
    training = model.training
    before = {name: layer.phase for name, layer in quant_layers(model).items()}
    set_phase(model, phase)
    try:
        yield
    finally:
        model.train(training)
        for name, layer in quant_layers(model).items():
            layer.phase = before[name]


def quant_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Every fake-quantised layer below ``model`` by name, in name order."""
    return dict(sorted((n, m) for n, m in model.named_modules() if isinstance(m, QuantLayer)))
