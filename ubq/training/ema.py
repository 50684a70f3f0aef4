"""Exponential moving average of the weights: what is validated and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Moving average of a model's trainable parameters and of its batch statistics.

    The statistics belong to the weights they were taken under, so they are averaged alike; every
    other buffer (observers, phases) is the model's own.

    The decay is warmed up as ``min(decay, (1 + n) / (10 + n))`` after n updates, so that a short
    training is not dominated by its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._averaged: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        statistics = ("running_mean", "running_var")
        self._averaged |= {n: b for n, b in model.named_buffers() if n.rpartition(".")[2] in statistics}
        self.average = {n: t.detach().clone() for n, t in self._averaged.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [t.detach() for t in self._averaged.values()], weight)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside the block. Storages are swapped, nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def apply(self) -> None:
        """Make the average the model's weights for good; the raw weights are given up."""
        self._swap()

    def _swap(self) -> None:
        for name, tensor in self._averaged.items():
            tensor.data, self.average[name] = self.average[name], tensor.data

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"updates": self.updates, **{f"average.{n}": t for n, t in self.average.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        self.updates = int(state["updates"])
        for name, tensor in self.average.items():
            tensor.copy_(state[f"average.{name}"])  # type: ignore[arg-type]
