"""Exponential moving average of the weights: what is validated and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ubq.training.sharding import is_sharded, own, own_part


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
        averages = [own(t) for t in self.average.values()]
        torch._foreach_lerp_(averages, [own(t) for t in self._averaged.values()], weight)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def apply(self) -> None:
        """Make the average the model's weights for good; the raw weights are given up."""
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Swap storages, so that nothing is copied; of a sharded tensor, to whose storage others refer, the values."""
        for name, tensor in self._averaged.items():
            if is_sharded(tensor):
                held = own(tensor).clone()
                own(tensor).copy_(own(self.average[name]))
                own(self.average[name]).copy_(held)
            else:
                tensor.data, self.average[name] = self.average[name], tensor.data

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"updates": self.updates, **{f"average.{n}": t for n, t in self.average.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        self.updates = int(state["updates"])
        for name, tensor in self.average.items():
            own(tensor).copy_(own_part(state[f"average.{name}"], tensor))  # type: ignore[arg-type]
