"""Activation checkpointing of the U-Net: what its blocks compute is given up and computed again for the backward pass.

Of each residual block and each attention only the input is kept (Chen et al. 2016, "Training Deep Nets with Sublinear
Memory Cost"). Where one training step follows several evaluations of the U-Net, each of them as a whole is a block,
too, so that they need no more than one. Results are the same to the bit: what observers have said in the forward pass
is said again, not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ubq.model.unet import ResidualAttention, ResidualBlock, UNet
from ubq.quant.observers import Recording

BLOCKS = (ResidualBlock, ResidualAttention)


def blocks_of(unet: nn.Module, evaluations: int = 1) -> list[nn.Module]:
    """What is computed again as one, the outer before the inner ones.

    Args:
        evaluations: of the U-Net in one training step.
    """
    kinds = BLOCKS if evaluations == 1 else (UNet, *BLOCKS)
    return [module for module in unet.modules() if isinstance(module, kinds)]


@contextmanager
def wrapped(modules: list[nn.Module], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Each module computes what ``wrap`` makes of its ``forward``, inside the block."""
    for module in modules:
        module.forward = wrap(module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the class's own comes back


@contextmanager
def activation_checkpointing(unet: nn.Module, evaluations: int = 1) -> Iterator[None]:
    """Train ``unet`` in the block with less memory and the same results: forward passes are computed once more, those
    of several evaluations twice.

    Args:
        evaluations: of the U-Net in one training step.
    """
    with wrapped(blocks_of(unet, evaluations), _checkpointed):
        yield


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        # no layer of the U-Net draws random numbers
        return checkpoint(
            forward, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=_said_and_said_again
        )

    return call


def _said_and_said_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    recording = Recording()
    return recording.recorded(), recording.replayed()
